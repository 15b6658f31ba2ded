"""Levels of signals whose levels are known."""

from __future__ import annotations

import math

import pytest
import torch

from distill_ray.evaluate import Levels, Sound
from distill_ray.evaluate.levels import LevelMeter

RATE = 48_000


def tone(hertz: float, seconds: float, amplitude: float = 1.0, rate: int = RATE) -> torch.Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * math.pi * hertz * time)).float()[None]


def levels(*audio: torch.Tensor, rate: int = RATE) -> Levels:
    meter = LevelMeter()
    for audio_CT in audio:
        meter.add(Sound("a", audio_CT, rate))
    return meter.levels()


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_loudness_is_that_of_bs_1770(rate: int) -> None:
    """Its own example: 997 Hz of full scale in one channel is −3.01 LUFS; in two channels 3 dB more."""
    one = tone(997, 4, rate=rate)
    assert levels(one, rate=rate).loudness_lufs == pytest.approx(-3.01, abs=0.1)
    assert levels(one.repeat(2, 1), rate=rate).loudness_lufs == pytest.approx(0.0, abs=0.1)
    assert levels(one / 10, rate=rate).loudness_lufs == pytest.approx(-23.01, abs=0.1)
    # The K-weighting: 4 dB up at high frequencies, down at low ones.
    assert levels(tone(7000, 4, rate=rate), rate=rate).loudness_lufs == pytest.approx(0.3, abs=0.3)
    assert levels(tone(30, 4, rate=rate), rate=rate).loudness_lufs < -10


def test_pauses_do_not_count_for_loudness() -> None:
    sound, pause = tone(997, 4, 0.1), torch.zeros(1, 6 * RATE)
    whole, alone = levels(torch.cat((sound, pause), dim=1)), levels(sound)
    assert whole.loudness_lufs == pytest.approx(alone.loudness_lufs, abs=0.3)
    assert levels(pause).loudness_lufs is None
    assert levels(pause).peak_dbfs is None


def test_silence_and_its_longest_run() -> None:
    loud, quiet = tone(440, 1, 0.1), tone(440, 1, 0.0005)
    found = levels(torch.cat((loud, quiet, loud, quiet, quiet), dim=1), loud)
    assert found.silence_share == pytest.approx(3 / 6, abs=0.01)
    assert found.longest_silence_s == pytest.approx(2.0, abs=0.051)
    assert found.peak_dbfs == pytest.approx(-20, abs=0.01)


def test_clipping_is_counted_by_samples() -> None:
    audio_CT = torch.zeros(1, 1000)
    audio_CT[0, :7] = 1.0
    audio_CT[0, 7:10] = -32_767 / 32_768
    audio_CT[0, 10:20] = 0.99
    assert levels(audio_CT).clipped_share == pytest.approx(0.010)


def test_drift_is_the_last_third_against_the_first() -> None:
    rising = torch.cat((tone(500, 3, 0.1), tone(700, 3, 0.15), tone(1000, 3, 0.2)), dim=1)
    found = levels(rising, rising)
    assert found.drift_db == pytest.approx(20 * math.log10(2), abs=0.01)
    assert found.centroid_drift_octaves == pytest.approx(1.0, abs=0.02)
    assert levels(tone(500, 5.9)).drift_db is None
    dying = levels(torch.cat((tone(500, 3), torch.zeros(1, 6 * RATE)), dim=1))
    assert dying.drift_db < -60
    assert dying.centroid_drift_octaves is None


def test_the_image_of_two_channels() -> None:
    left = tone(440, 1)
    right = tone(1000, 1)
    assert levels(left).channel_correlation is None
    same = levels(torch.cat((left, left)))
    assert (same.channel_correlation, same.side_share) == pytest.approx((1.0, 0.0), abs=1e-6)
    opposite = levels(torch.cat((left, -left)))
    assert (opposite.channel_correlation, opposite.side_share) == pytest.approx((-1.0, 1.0))
    apart = levels(torch.cat((left, right)))
    assert (apart.channel_correlation, apart.side_share) == pytest.approx((0.0, 0.5), abs=1e-3)


def test_any_short_sound_has_levels() -> None:
    found = levels(tone(440, 0.01))
    assert found.peak_dbfs == pytest.approx(0, abs=0.01)
    assert found.silence_share == 0
    assert levels().loudness_lufs is None
