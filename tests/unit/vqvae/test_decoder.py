from __future__ import annotations

import dataclasses

import pytest
import torch

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.decoder import Decoder


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_frame_hop_for_each_latent(config: VQVAEConfig, stride: int, channels: int) -> None:
    config = dataclasses.replace(config, stride=stride, channels=channels)
    audio = Decoder(config)(torch.randn(2, 7, config.latent_dim))
    assert audio.shape == (2, channels, 7 * config.frame_hop)
    assert audio.dtype == torch.float32


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_context_covers_the_receptive_field(config: VQVAEConfig, stride: int) -> None:
    config = dataclasses.replace(config, stride=stride)
    torch.manual_seed(0)
    decoder = Decoder(config)
    frames, middle = 41, 20
    latents = torch.randn(1, frames, config.latent_dim, requires_grad=True)
    hop = config.frame_hop
    decoder(latents)[0, 0, middle * hop : (middle + 1) * hop].mul(1e3).square().sum().backward()
    assert latents.grad is not None
    seen = latents.grad[0].abs().sum(1).nonzero().flatten()
    assert middle - seen.min() <= decoder.context_frames
    assert seen.max() - middle <= decoder.context_frames
    assert decoder.context_frames <= middle - seen.min() + 1


@pytest.mark.parametrize("channels", [1, 2])
def test_it_starts_from_the_mean_log_spectrum(config: VQVAEConfig, channels: int) -> None:
    config = dataclasses.replace(config, channels=channels)
    generator = torch.Generator().manual_seed(0)
    # The second channel is 20 dB below the first, and all of it is in the lower half of the spectrum.
    noise = torch.randn(4, channels, 64 * config.frame_hop, generator=generator)
    spectrum = torch.fft.rfft(noise)
    spectrum[..., spectrum.shape[-1] // 2 :] = 0
    recordings = torch.fft.irfft(spectrum) * torch.tensor([0.1, 0.01])[:channels, None]
    decoder = Decoder(config)
    decoder.start_from(recordings)

    def levels(audio_BCT: torch.Tensor) -> torch.Tensor:
        """dB of the lower and the upper half of each channel's spectrum."""
        power = decoder.stft(audio_BCT).abs().square().mean((0, 2))
        halves = torch.stack([half.mean(-1) for half in power.chunk(2, dim=-1)])
        return 10 * halves.clamp(min=1e-12).log10()

    with torch.no_grad():
        decoded = decoder(torch.randn(4, 64, config.latent_dim, generator=generator))
    lower, upper = levels(decoded)
    expected, _ = levels(recordings)
    # The mean logarithm of noise is 2.5 dB below its power, and frames whose phases differ cancel in part.
    assert ((lower - expected + 6.0).abs() < 4.0).all()
    assert (upper < lower - 15.0).all()


def test_nothing_it_learns_reaches_0_hz_or_half_the_sample_rate(config: VQVAEConfig) -> None:
    """No loss sees these bins well, so that their gains would wander off and take the run along."""
    decoder = Decoder(config)
    with torch.no_grad():
        decoder.head.bias.view(3, config.channels, -1)[0, :, [0, -1]] = 5.0
        spectra = torch.fft.rfft(decoder(torch.randn(2, 40, config.latent_dim))[..., 1024:-1024])
    decoder(torch.randn(1, 9, config.latent_dim)).square().sum().backward()
    inner = spectra[..., spectra.shape[-1] // 3 : -spectra.shape[-1] // 3].abs().mean()
    assert spectra[..., 0].abs().max() < 10 * inner
    assert spectra[..., -1].abs().max() < 10 * inner
    assert decoder.head.weight.grad is not None
    gradients = decoder.head.weight.grad.view(3, config.channels, -1, config.width)
    assert not gradients[:, :, [0, -1]].any()
    assert gradients[:, :, 1:-1].flatten(3).any(-1).all()


def test_without_its_norm_it_has_the_weights_of_before(config: VQVAEConfig) -> None:
    before = Decoder(dataclasses.replace(config, decoder_norm=False))
    added = set(Decoder(config).state_dict()) - set(before.state_dict())
    assert added == {"embed_norm.weight", "embed_norm.bias"}


def test_a_head_of_compressed_parts_is_as_it_was(config: VQVAEConfig) -> None:
    """Files of before have two values for each bin, which are expanded to the power of 1 / compression."""
    before = Decoder(dataclasses.replace(config, decoder_head="compressed"))
    parts = before.head.out_features
    assert parts * 3 == Decoder(config).head.out_features * 2
    with torch.no_grad():
        before.head.weight.zero_()
        before.head.bias.zero_()
        # 0.5 ** (1 / 0.3) in the real part of one bin.
        before.head.bias[2 * 5] = 0.5
        spectra = before.stft(before(torch.randn(1, 40, config.latent_dim)))[0, 0, 10:-10]
    assert before.compression == 0.3
    # Frames of equal phase cancel where the hop is no whole number of periods; the bin's level bounds it.
    assert 0.0 < spectra.abs().max() <= 1.01 * 0.5 ** (1 / 0.3)
