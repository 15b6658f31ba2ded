"""Two channels as mid and side."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from distill_ray.vqvae import VQVAE
from distill_ray.vqvae.spectral import Stft
from distill_ray.vqvae.stereo import left_and_right, mid_and_side
from tests.unit.vqvae.conftest import MAGNITUDES


@pytest.mark.parametrize("shape", [(2, 64), (3, 2, 64), (1, 4, 2, 64)])
def test_two_channels_come_back(shape: tuple[int, ...]) -> None:
    audio = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    made = mid_and_side(audio)
    torch.testing.assert_close(left_and_right(made), audio)
    torch.testing.assert_close(made[..., 0, :], audio.mean(-2))
    same = audio[..., :1, :].expand(audio.shape)
    assert not mid_and_side(same)[..., 1, :].any()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_numbers_of_channels_stay_as_they_are(channels: int) -> None:
    audio = torch.randn(3, channels, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mid_and_side(audio), audio)
    assert torch.equal(left_and_right(audio), audio)
    spectra = Stft(32, 8, mid_side=True)(audio)
    assert torch.equal(spectra, Stft(32, 8)(audio))


def recordings() -> Tensor:
    """[8, 2, 8192]: a gliding tone in the middle, and noise that is wide and 12 dB softer."""
    generator = torch.Generator().manual_seed(0)
    time_T = torch.arange(8192) / MAGNITUDES.sample_rate
    hertz_B1 = 300.0 + 90.0 * torch.arange(8)[:, None]
    middle_BT = 0.3 * torch.sin(2 * torch.pi * (hertz_B1 + 200.0 * time_T) * time_T)
    wide_BT = 0.3 * 2**-0.5 * 10 ** (-12 / 20) * torch.randn(8, 8192, generator=generator)
    return left_and_right(torch.stack([middle_BT, wide_BT], dim=1))


def side_over_mid_db(audio_BCT: Tensor) -> float:
    mid, side = mid_and_side(audio_BCT).square().mean((0, 2)).tolist()
    return float(10.0 * torch.log10(torch.tensor(side / mid)))


@pytest.mark.parametrize("head", ["flow", "magnitudes"])
def test_what_is_in_the_middle_stays_there(head: str) -> None:
    images = {}
    for stereo in ("left-right", "mid-side"):
        config = dataclasses.replace(
            MAGNITUDES,
            decoder_head=head,
            decoder_components=24,
            channels=2,
            codebook_learning="kmeans",
            decoder_spread="latents",
            stereo=stereo,
        )
        torch.manual_seed(0)
        model = VQVAE(config).eval()
        audio_BCT = recordings()
        model.initialise(audio_BCT, torch.Generator().manual_seed(0))
        images[stereo] = side_over_mid_db(model.decode(model.encode(audio_BCT)))
    assert side_over_mid_db(recordings()) == pytest.approx(-12.0, abs=0.3)
    assert images["mid-side"] == pytest.approx(-12.0, abs=2.5)
    assert images["left-right"] > -8.0  # what mid and side are for
