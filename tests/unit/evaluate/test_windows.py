"""Where windows lie, and what becomes of sounds that are shorter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill_ray.evaluate import Sound
from distill_ray.evaluate.spectra import RATE
from distill_ray.evaluate.windows import KINDS, at_judges_rate, measure, windows_of


def sound(seconds: float, seed: int = 0) -> Sound:
    generator = torch.Generator().manual_seed(seed)
    return Sound(str(seed), 0.1 * torch.randn(1, round(seconds * RATE), generator=generator), RATE)


def test_windows_lie_within_blocks() -> None:
    """1.5 s every 0.75 s, none across a multiple of 6 s; 8 s every 2 s, none across one of 24 s."""
    found = measure([sound(13.0), sound(1.5, 1)], on_sound=lambda _: None)
    short, long = found["short"], found["long"]
    assert short.block_N.tolist() == [0] * 7 + [1] * 7 + [2]
    assert short.sound_N.tolist() == [0] * 14 + [1]
    assert len(long) == 3
    assert windows_of(13.0) == 14
    assert windows_of(10.0) == 11
    assert windows_of(1.49) == 0
    assert KINDS["long"].seconds == 8


def test_features_are_those_of_the_window_s_samples() -> None:
    whole = sound(6.0)
    found = measure([whole], on_sound=lambda _: None)["short"]
    part = Sound("part", whole.audio_CT[:, RATE * 3 // 2 : RATE * 3], RATE)
    alone = measure([part], on_sound=lambda _: None)["short"]
    for name, values_ND in found.features.items():
        np.testing.assert_allclose(values_ND[2], alone.features[name][0], rtol=1e-3, atol=1e-4)


def test_short_sounds_are_joined_behind_the_others_and_their_blocks_are_drawn() -> None:
    pieces = [sound(1.0, seed) for seed in range(20)]
    told: list[str] = []
    found = measure(
        [*pieces[:10], sound(3.0, 99), *pieces[10:]], on_sound=lambda each: told.append(each.name)
    )
    joined = Sound("joined", torch.cat([piece.audio_CT for piece in pieces], dim=1), RATE)
    expected = measure([sound(3.0, 99), joined], on_sound=lambda _: None)["short"]
    for name, values_ND in found["short"].features.items():
        np.testing.assert_allclose(values_ND, expected.features[name], rtol=1e-3, atol=1e-4)
    assert found["short"].block_N.tolist() == expected.block_N.tolist()
    assert len(np.unique(found["short"].sound_N)) == 1 + 4
    assert len(found["long"]) == 0
    assert len(told) == 21


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_sounds_are_mixed_and_resampled(rate: int) -> None:
    time = torch.arange(rate, dtype=torch.float64) / rate
    left = torch.sin(2 * torch.pi * 440 * time).float()
    mono_T = at_judges_rate(Sound("a", torch.stack((left, 0.5 * left)), rate))
    assert len(mono_T) == pytest.approx(RATE, abs=2)
    expected = 0.75 * np.sin(2 * np.pi * 440 * np.arange(len(mono_T)) / RATE)
    np.testing.assert_allclose(mono_T[1000:-1000], expected[1000:-1000], atol=2e-3)
