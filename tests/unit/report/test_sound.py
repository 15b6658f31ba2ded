from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from distill_ray.report.facts import Sound
from distill_ray.report.sound import encode, encode_all, read_sound


def decoded(content: bytes) -> tuple[np.ndarray, int]:
    audio_TC, rate = soundfile.read(io.BytesIO(content), always_2d=True)
    return audio_TC, rate


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_length_rate_and_level_stay(records: ModuleType, rate: int) -> None:
    sound = records.tone(seconds=0.7, rate=rate)
    made = encode(sound)
    audio_TC, found = decoded(made.content)
    assert (found, len(audio_TC), made.cut) == (rate, round(0.7 * rate), False)
    assert np.abs(audio_TC).max() == pytest.approx(0.5, abs=0.08)


def test_a_rate_that_mp3_lacks_is_resampled(records: ModuleType) -> None:
    audio_TC, rate = decoded(encode(records.tone(seconds=0.5, rate=96_000)).content)
    assert rate == 48_000
    assert len(audio_TC) == 24_000
    assert np.abs(np.fft.rfft(audio_TC[:, 0])).argmax() * 2 == pytest.approx(440, abs=4)


def test_channels_beyond_two_become_their_mean() -> None:
    audio_TC = np.zeros((8_000, 4), np.float32)
    audio_TC[:, 3] = 0.8 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 8_000)
    made, _ = decoded(encode(Sound(label="", audio_TC=audio_TC, sample_rate=8_000)).content)
    assert made.shape[1] == 1
    assert np.abs(made).max() == pytest.approx(0.2, abs=0.03)


def test_a_cut_sound_ends_in_silence(records: ModuleType) -> None:
    made = encode(records.tone(seconds=2.0), seconds=0.5)
    audio_TC, rate = decoded(made.content)
    assert made.cut
    assert made.seconds == 0.5
    assert len(audio_TC) / rate == pytest.approx(0.5, abs=0.001)
    assert np.abs(audio_TC[-8:]).max() < 0.1


def test_all_fit_into_the_bytes(records: ModuleType) -> None:
    sounds = [records.tone(seconds=seconds) for seconds in (0.2, 2.0, 2.0)]
    whole = sum(len(each.content) for each in encode_all(sounds, 1 << 30))
    made = encode_all(sounds, whole // 2)
    assert sum(len(each.content) for each in made) <= whole // 2
    assert [each.cut for each in made] == [False, True, True]
    assert encode_all([], 0) == []


def test_a_part_of_a_file_is_read(tmp_path: Path) -> None:
    values = np.linspace(-0.5, 0.5, 8_000, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", values, 8_000, subtype="FLOAT")
    sound = read_sound(tmp_path / "a.wav", "part", start_s=0.25, seconds=0.5)
    assert sound.seconds == 0.5
    np.testing.assert_array_equal(sound.audio_TC[:, 0], values[2_000:6_000])
    assert read_sound(tmp_path / "a.wav", "end", start_s=5.0).seconds == 0.0
