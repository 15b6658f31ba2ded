from __future__ import annotations

import math

import pytest
import torch

from distill_ray.vqvae.spectral import Stft, compress, directed, expand, limited


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (64, 32), (128, 16)])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_inverse_reconstructs_every_sample(n_fft: int, hop: int, frames: int) -> None:
    audio = torch.randn(2, 3, frames * hop, generator=torch.Generator().manual_seed(0))
    stft = Stft(n_fft, hop)
    spectra = stft(audio)
    assert spectra.shape == (2, 3, frames, n_fft // 2 + 1)
    torch.testing.assert_close(stft.inverse(spectra), audio, atol=2e-6, rtol=0)


def test_frames_equal_torch_stft() -> None:
    audio = torch.randn(1, 1024, generator=torch.Generator().manual_seed(0))
    ours = Stft(128, 32)(audio)
    padded = torch.nn.functional.pad(audio, (48, 48))
    window = torch.hann_window(128)
    reference = torch.stft(padded, 128, 32, window=window, center=False, return_complex=True)
    torch.testing.assert_close(Stft(128, 32).gain * ours, reference.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_overlap_add_equals_fold() -> None:
    frames = torch.randn(2, 6, 128, generator=torch.Generator().manual_seed(0))
    stft = Stft(128, 32)
    folded = torch.nn.functional.fold(
        frames.transpose(1, 2), (1, 5 * 32 + 128), kernel_size=(1, 128), stride=(1, 32)
    ).flatten(1)
    torch.testing.assert_close(stft._overlap_add(frames), folded[:, 48:-48])


def test_white_noise_keeps_its_level_in_every_window_length() -> None:
    noise = 0.1 * torch.randn(65_536, generator=torch.Generator().manual_seed(0))
    for n_fft in (128, 2048):
        level = Stft(n_fft, n_fft // 4)(noise)[4:-4].abs().square().mean().sqrt()
        assert level == pytest.approx(0.1, rel=0.05)


def test_computed_in_float32_under_autocast() -> None:
    stft = Stft(128, 32)
    audio = torch.randn(1, 320, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        spectra = stft(audio)
        back = stft.inverse(spectra)
    torch.testing.assert_close(spectra, stft(audio), atol=0, rtol=0)
    torch.testing.assert_close(back, audio, atol=2e-6, rtol=0)


@pytest.mark.parametrize("exponent", [0.3, 0.7, 1.0])
def test_expansion_inverts_compression(exponent: float) -> None:
    generator = torch.Generator().manual_seed(0)
    spectra = torch.randn(64, dtype=torch.complex64, generator=generator)
    compressed = compress(spectra, exponent)
    torch.testing.assert_close(compressed.abs(), spectra.abs() ** exponent, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compressed.angle(), spectra.angle(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(expand(compressed, exponent), spectra, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("exponent", [0.3, 0.7, 1.0])
def test_gradients_are_finite_at_zero(exponent: float) -> None:
    for curve in (compress, expand):
        spectra = torch.zeros(4, dtype=torch.complex64, requires_grad=True)
        curve(spectra, exponent).real.sum().backward()
        assert spectra.grad is not None
        assert spectra.grad.isfinite().all()
        assert curve(spectra, exponent).abs().max() == 0


def test_no_audio_is_louder_than_the_limit_of_its_spectra() -> None:
    stft = Stft(256, 64)
    audio = torch.ones(1, 64 * 20)
    assert stft(audio).abs().max() == pytest.approx(stft.loudest, rel=1e-5)
    tone = torch.sin(2 * torch.pi * torch.arange(64 * 20) / 8)[None]
    assert stft(tone).abs().max() < stft.loudest


def test_magnitudes_are_limited_above_the_limit_only() -> None:
    generator = torch.Generator().manual_seed(0)
    spectra = torch.randn(1000, dtype=torch.complex64, generator=generator)
    bounded = limited(spectra, 1.0)
    below = spectra.abs() <= 1.0
    assert 0.3 < below.float().mean() < 0.9
    torch.testing.assert_close(bounded[below], spectra[below], rtol=0, atol=0)
    torch.testing.assert_close(bounded[~below].abs(), 1 + spectra[~below].abs().log())
    torch.testing.assert_close(bounded.angle(), spectra.angle(), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_burst_is_bounded_by_its_limit() -> None:
    """Without it the gradient grows with the power of 2.33 of the magnitude, from 34 at the limit."""

    def slope(magnitude: float) -> float:
        part = torch.tensor([complex(magnitude, 0.0)], requires_grad=True)
        expand(limited(part, 2.7), 0.3).abs().sum().backward()
        assert part.grad is not None
        return float(part.grad.abs())

    assert slope(2.7) == pytest.approx(2.7 ** (7 / 3) / 0.3, rel=1e-3)
    assert slope(100.0) < slope(2.7)


def test_a_gain_is_the_logarithm_of_a_magnitude_up_to_the_loudest() -> None:
    gain = torch.tensor([0.0, -9.0, -2.0, 0.0, 1.5, 0.0])
    parts = torch.stack([gain, torch.full((6,), 3.0), torch.full((6,), -4.0)])
    spectra = directed(parts, 20.0)
    expected = 20.0 * torch.tensor([0.0, math.exp(-9.0), math.exp(-2.0), 1.0, 2.5, 0.0])
    torch.testing.assert_close(spectra.abs(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(spectra[1:5], expected[1:5] * complex(0.6, -0.8), rtol=1e-5, atol=0)


def test_no_gain_is_out_of_a_gradients_reach() -> None:
    parts = torch.tensor([[0.0, -12.0, 0.0, 30.0, 0.0], [1.0] * 5, [0.0] * 5], requires_grad=True)
    directed(parts, 20.0).abs().clamp(min=1e-12).log().sum().backward()
    assert parts.grad is not None
    torch.testing.assert_close(parts.grad[0], torch.tensor([0.0, 1.0, 1.0, 1 / 31, 0.0]), rtol=1e-4, atol=0)
