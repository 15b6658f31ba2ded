from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_ray.training.augment import MARGIN, POINTS, changed, equaliser, source_samples

SAMPLES, RATE = 8_192, 44_100


def tone(frequency: float, samples: int) -> Tensor:
    """A sine [1, 1, samples] of amplitude 0.5."""
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(samples, dtype=torch.float64) / RATE)[
        None, None
    ].to(torch.float64)


@pytest.mark.parametrize("semitones", [-12.0, -2.3, -0.1, 0.4, 3.0, 12.0])
def test_speed_moves_the_pitch_and_keeps_the_level(semitones: float) -> None:
    speed = 2.0 ** (semitones / 12)
    source = source_samples(SAMPLES, speed)
    assert source % 2 == 0
    assert source / (SAMPLES + 2 * MARGIN) == pytest.approx(speed, abs=0.5 / 64)
    found = changed(tone(1_000.0, source), SAMPLES)[0, 0]
    # The same sine, sampled `exact` times as fast, from the margin on.
    exact = source / (SAMPLES + 2 * MARGIN)
    expected = tone(1_000.0 * exact, SAMPLES + MARGIN)[0, 0, MARGIN:]
    assert (found - expected).abs().max() < 0.01
    assert (found - expected)[500:-500].abs().max() < 0.003


def test_speeds_need_few_lengths() -> None:
    speeds = [2.0 ** (step / 1_200) for step in range(-200, 201)]
    lengths = {source_samples(33_280, speed) for speed in speeds}
    assert len(lengths) <= 17
    assert source_samples(33_280, 1.0) == 33_280 + 2 * MARGIN
    assert all(length % 512 == 0 for length in lengths)


def test_what_would_alias_is_cut() -> None:
    source = source_samples(SAMPLES, 1.5)
    found = changed(tone(20_000.0, source), SAMPLES)
    assert found[..., 500:-500].abs().max() < 0.005


def test_nothing_changed_is_the_recording() -> None:
    audio = torch.randn(3, 2, SAMPLES + 2 * MARGIN, dtype=torch.float64)
    found = changed(audio, SAMPLES, equaliser(torch.zeros(3, POINTS, dtype=torch.float64), SAMPLES))
    assert (found - audio[..., MARGIN:-MARGIN]).abs().max() < 1e-9


def test_an_equaliser_has_its_gains_at_its_points() -> None:
    gains = torch.tensor([[6.0, -6.0, 3.0, 0.0, 12.0, -12.0, 1.0, -1.0]])
    curve = 20 * equaliser(gains, 2_048 - 2 * MARGIN)[0].log10()
    # Points an octave apart: Nyquist / 128 … Nyquist.
    assert curve[[8, 16, 32, 64, 128, 256, 512, 1024]].tolist() == pytest.approx(gains[0].tolist(), abs=1e-4)
    assert curve[0] == pytest.approx(6.0, abs=1e-4)
    assert curve[768] == pytest.approx(1.0 - 2.0 * (math.log2(768) - 9), abs=1e-3)


def test_an_equaliser_changes_a_tone_by_its_gain() -> None:
    gains = torch.full((1, POINTS), -6.0)
    source = SAMPLES + 2 * MARGIN
    found = changed(tone(1_000.0, source).float(), SAMPLES, equaliser(gains, SAMPLES))
    expected = tone(1_000.0, source)[..., MARGIN:-MARGIN] * 10 ** (-6 / 20)
    assert (found - expected).abs().max() < 0.01
