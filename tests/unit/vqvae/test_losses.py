from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import LossConfig, VQVAEConfig
from distill_ray.vqvae.losses import BANDS, MEL_BINS, ReconstructionLoss, mel_filters


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def loss(config: VQVAEConfig) -> ReconstructionLoss:
    return ReconstructionLoss(config, LossConfig())


def test_equal_audio_costs_nothing(loss: ReconstructionLoss) -> None:
    terms = loss(noise(2, 1, 4096), noise(2, 1, 4096))
    assert {name: term.item() for name, term in terms.items()} == {
        "mel": 0.0,
        "bands": 0.0,
        "complex_stft": 0.0,
        "waveform": 0.0,
    }


def test_known_values(config: VQVAEConfig) -> None:
    loss = ReconstructionLoss(config, LossConfig(phase_hz=config.sample_rate / 2))
    audio = noise(2, 1, 8192)
    halved = loss(audio / 2, audio)
    assert halved["mel"].item() == pytest.approx(math.log10(2), rel=0.02)
    assert halved["bands"].item() == pytest.approx(math.log10(2), rel=0.02)
    assert halved["waveform"].item() == pytest.approx(audio.abs().mean().item() / 2, rel=1e-5)
    flipped = loss(-audio, audio)
    assert flipped["mel"].item() == flipped["bands"].item() == 0.0
    # A flipped sign keeps magnitudes: only the terms that see phase notice.
    assert flipped["complex_stft"].item() > 5 * halved["complex_stft"].item()
    assert flipped["waveform"].item() == pytest.approx(2 * audio.abs().mean().item(), rel=1e-5)


def test_phases_count_below_a_frequency_and_magnitudes_above(config: VQVAEConfig) -> None:
    audio = noise(2, 1, 8192)
    distances = {}
    for share in (0.0, 0.25, 0.5, 1.0):
        loss = ReconstructionLoss(config, LossConfig(phase_hz=share * config.sample_rate / 2))
        distances[share] = loss(-audio, audio)["complex_stft"].item()
        assert loss(audio, audio)["complex_stft"].item() == 0.0
    assert distances[0.0] < 0.01 * distances[1.0]  # the sign of what is at 0 Hz
    assert distances[0.25] == pytest.approx(distances[1.0] / 4, rel=0.03)
    assert distances[0.5] == pytest.approx(distances[1.0] / 2, rel=0.03)


def test_halved_magnitudes_cost_what_compression_leaves(config: VQVAEConfig) -> None:
    audio, quiet = noise(2, 1, 8192), 0.5**config.compression
    loss = ReconstructionLoss(config, LossConfig(phase_hz=0.0))
    silent = loss(torch.zeros_like(audio), audio)["complex_stft"].item()
    assert loss(audio / 2, audio)["complex_stft"].item() == pytest.approx((1 - quiet) * silent, rel=1e-3)


def test_total_is_the_weighted_sum(config: VQVAEConfig) -> None:
    loss = ReconstructionLoss(config, LossConfig(mel=2.0, bands=7.0, complex_stft=3.0, waveform=5.0))
    values = {"mel": 1.0, "complex_stft": 10.0, "waveform": 100.0, "bands": 1000.0}
    assert loss.total({name: torch.tensor(value) for name, value in values.items()}).item() == 7532.0


def test_mean_over_shards_is_the_joined_batch(loss: ReconstructionLoss) -> None:
    pred, target = noise(4, 1, 2048), noise(4, 1, 2048, seed=1)
    joined, first, second = loss(pred, target), loss(pred[:2], target[:2]), loss(pred[2:], target[2:])
    for name, term in joined.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, term)


@pytest.mark.parametrize("level", [0.0, 1e-9, 1e-4])
def test_gradients_are_finite_on_silence(loss: ReconstructionLoss, level: float) -> None:
    pred = (level * noise(1, 1, 2048)).requires_grad_()
    total = loss.total(loss(pred, torch.zeros(1, 1, 2048)))
    total.backward()
    assert pred.grad is not None
    assert total.isfinite()
    assert pred.grad.isfinite().all()


def test_stereo_hears_mid_and_side(config: VQVAEConfig) -> None:
    loss = ReconstructionLoss(config, LossConfig())
    target = noise(1, 2, 4096)
    left, right = target[:, :1], target[:, 1:]
    pred = torch.cat([left, -right], dim=1)
    terms = loss(pred, target)
    # Each channel has the right magnitudes; only mid and side, now exchanged, differ.
    halves = loss(torch.cat([left - right, left + right], 1)[:, :1] / 2, (left + right) / 2)["mel"]
    others = loss((left + right) / 2, (left - right) / 2)["mel"]
    assert terms["mel"].item() == pytest.approx((halves.item() + others.item()) / 4, rel=1e-4)


def test_any_length_and_autocast(loss: ReconstructionLoss) -> None:
    pred, target = noise(1, 1, 1000), noise(1, 1, 1000, seed=1)
    plain = loss(pred, target)
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss(pred, target)
    for name, term in plain.items():
        assert term.isfinite()
        assert cast[name].dtype == torch.float32
        assert torch.equal(cast[name], term)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_no_filter_is_empty_and_each_is_a_mean(sample_rate: int) -> None:
    for window, bins in MEL_BINS.items():
        filters_KM = mel_filters(window, bins, sample_rate)
        assert bins * 0.6 < filters_KM.shape[1] <= bins
        torch.testing.assert_close(filters_KM.sum(0), torch.ones(filters_KM.shape[1]))


@pytest.mark.parametrize(
    ("sample_rate", "window"),
    [(8_000, 1024), (16_000, 2048), (22_050, 2048), (44_100, 4096), (48_000, 4096), (96_000, 8192)],
)
def test_levels_are_of_bands_as_wide_as_the_ears_and_long(sample_rate: int, window: int) -> None:
    loss = ReconstructionLoss(VQVAEConfig(sample_rate=sample_rate), LossConfig())
    assert loss.band_transform.n_fft == window
    assert loss.get_buffer("band_filters").shape == (window // 2 + 1, BANDS)
    # Noise of the same spectrum is another recording to mel bins, less of one to levels of bands.
    pred, target = noise(2, 1, sample_rate), noise(2, 1, sample_rate, seed=1)
    terms = loss(pred, target)
    assert 0.01 < terms["bands"].item() < 0.6 * terms["mel"].item()


def test_buffers_are_not_saved(loss: ReconstructionLoss) -> None:
    assert loss.state_dict() == {}
    assert len(list(loss.buffers())) == 2 * (len(MEL_BINS) + 1)
