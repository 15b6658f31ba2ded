from __future__ import annotations

import math

import pytest
import torch

from distill_ray.prior import measure

RATE, HOP = 22_050, 1024
LOUDNESS, BRIGHTNESS, DENSITY, PITCH = range(4)


def measured(*sounds: torch.Tensor) -> torch.Tensor:
    samples_B = torch.tensor([len(sound) for sound in sounds])
    audio_BT = torch.nn.utils.rnn.pad_sequence(list(sounds), batch_first=True)
    return measure(audio_BT, samples_B, sample_rate=RATE, frame_hop=HOP)


def tone(hertz: float, seconds: float = 5.0, level: float = 0.5) -> torch.Tensor:
    time_T = torch.arange(round(seconds * RATE)) / RATE
    return level * sum((2 * math.pi * hertz * part * time_T).sin() / part for part in (1, 2, 3))


def clicks(rate: float, seconds: float = 8.0) -> torch.Tensor:
    noise = torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(0))
    time_T = torch.arange(len(noise)) / RATE
    return 0.3 * noise * torch.exp(-40 * (time_T % (1 / rate)))


def test_loudness_is_the_level_in_decibels() -> None:
    time_T = torch.arange(4 * RATE) / RATE
    sine = 0.5 * (2 * math.pi * 440 * time_T).sin()
    loud, soft = measured(sine, sine / 10)[:, LOUDNESS, 40]
    assert loud == pytest.approx(20 * math.log10(0.5) - 3.01, abs=0.1)
    assert loud - soft == pytest.approx(20.0, abs=0.1)


def test_brightness_rises_by_an_octave_where_all_frequencies_do() -> None:
    low, high = measured(tone(200.0), tone(400.0))[:, BRIGHTNESS, 40]
    assert high - low == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("rate", [1.0, 2.0, 5.0])
def test_density_counts_onsets(rate: float) -> None:
    assert measured(clicks(rate))[0, DENSITY, 30:-30].mean() == pytest.approx(rate, rel=0.15)
    assert measured(tone(300.0))[0, DENSITY, 60] == 0.0


@pytest.mark.parametrize("hertz", [110.0, 220.0, 523.0, 880.0])
def test_pitch_is_that_of_the_fundamental_and_noise_has_none(hertz: float) -> None:
    assert measured(tone(hertz))[0, PITCH, 50] == pytest.approx(math.log2(hertz), abs=0.06)
    noise = torch.randn(4 * RATE, generator=torch.Generator().manual_seed(0))
    assert measured(0.1 * noise)[0, PITCH].isnan().all()


def test_silence_has_a_level_and_nothing_else() -> None:
    found_AF = measured(torch.zeros(3 * RATE))[0]
    assert (found_AF[LOUDNESS] < -100).all()
    assert (found_AF[DENSITY] == 0).all()
    assert found_AF[[BRIGHTNESS, PITCH]].isnan().all()


def test_a_sound_is_measured_alike_beside_longer_ones() -> None:
    short, long = tone(300.0, 1.3), clicks(3.0)
    together = measured(short, long)
    frames = -(-len(short) // HOP)
    assert together.shape[2] == -(-len(long) // HOP)
    alone = measured(short)[0]
    assert alone.shape[1] == frames
    assert torch.allclose(together[0, :, :frames], alone, atol=1e-3, equal_nan=True)
    assert together[0, :, frames:].isnan().all()
