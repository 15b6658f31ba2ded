from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae import VQVAE, code_agreement
from distill_ray.vqvae.agreement import kept_at_quarter

HOP = 64


class Planted:
    """Level 0: a frame's loudest sample in steps of 2 dB; level 1: the sign of its first sample."""

    config = SimpleNamespace(frame_hop=HOP, num_quantizers=2)

    def encode(self, audio_BCT: Tensor, /) -> Tensor:
        frames_BFT = audio_BCT[:, 0].unflatten(1, (-1, HOP))
        level_BF = torch.floor(10 * frames_BFT.abs().amax(2).clamp(min=1e-6).log10()).long()
        return torch.stack((level_BF, (frames_BFT[:, :, 0] > 0).long()), dim=1)


def square_wave(frames: int, period: int) -> Tensor:
    time = torch.arange(frames * HOP + HOP)
    return 0.5 * (1.0 - 2.0 * ((time // (period // 2)) % 2))[None, None]


def test_it_counts_what_a_planted_codec_keeps() -> None:
    # Half a period is a quarter of a frame: a shift by an eighth changes no first sample, by a quarter all.
    found = code_agreement(Planted(), [square_wave(20, HOP // 2)])
    assert found is not None
    assert found.shift_eighth == (1.0, 1.0)
    assert found.shift_quarter == (1.0, 0.0)
    assert found.shift_half == (1.0, 1.0)
    assert found.polarity == (1.0, 0.0)
    assert found.gain_3db == (0.0, 1.0)


def test_silence_does_not_count() -> None:
    audio_BCT = square_wave(20, HOP // 2)
    silent_BCT = torch.zeros(3, 1, 20 * HOP)
    assert code_agreement(Planted(), [silent_BCT]) is None
    assert code_agreement(Planted(), [audio_BCT, silent_BCT]) == code_agreement(Planted(), [audio_BCT])


def test_codes_of_phases_do_not_survive_a_flip(config: VQVAEConfig, audio_BCT: Tensor) -> None:
    torch.manual_seed(0)
    model = VQVAE(config).eval()
    model.initialise(audio_BCT, torch.Generator().manual_seed(0))
    found = code_agreement(model, [audio_BCT])
    assert found is not None
    assert max(found.polarity) < 0.9
    assert all(0.0 <= share <= 1.0 for share in found.shift_half)


def test_a_validation_measures_the_quarter_alone() -> None:
    windows = [square_wave(20, HOP // 2)]
    assert kept_at_quarter(Planted(), windows) == (1.0, 0.0)
    assert kept_at_quarter(Planted(), [0.0 * windows[0]]) == ()
