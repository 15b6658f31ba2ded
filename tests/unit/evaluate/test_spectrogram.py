from __future__ import annotations

import numpy as np
import pytest

from distill_ray.evaluate.spectrogram import frequencies, spectrogram


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("hertz", [110.0, 1000.0, 3300.0])
def test_a_sine_is_at_its_frequency_and_level(rate: int, hertz: float) -> None:
    time = np.arange(rate) / rate
    audio_TC = np.stack([0.1 * np.sin(2 * np.pi * hertz * time)] * 2, axis=1).astype(np.float32)
    levels_FS = spectrogram(audio_TC, rate)
    middle_F = levels_FS[:, levels_FS.shape[1] // 2]
    assert frequencies(rate)[middle_F.argmax()] == pytest.approx(hertz, rel=0.12)
    assert middle_F.max() == pytest.approx(-20.0, abs=1.6)  # a sine between two bins loses up to 1.4 dB
    far = np.abs(np.log2(frequencies(rate) / hertz)) > 1.5
    assert middle_F[far].max() < -55.0


def test_a_click_is_at_its_time() -> None:
    audio_TC = np.zeros((8_000, 1), np.float32)
    audio_TC[6_000] = 1.0
    levels_FS = spectrogram(audio_TC, 8_000)
    assert levels_FS[60].argmax() / levels_FS.shape[1] == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("samples", [1, 100, 48_000 * 60])
def test_any_length_gives_a_bounded_picture(samples: int) -> None:
    levels_FS = spectrogram(np.zeros((samples, 1), np.float32), 48_000)
    assert levels_FS.shape[0] == 112
    assert 1 <= levels_FS.shape[1] <= 300
    assert np.isfinite(levels_FS).all()
    assert levels_FS.max() <= -100.0
