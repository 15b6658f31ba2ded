from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.config.generation import AUDIO_FORMATS
from distill_ray.errors import AudioError
from distill_ray.generate.audio import check_suffix, stream_wav, write_audio
from distill_ray.storage.atomic import atomic_file


def blocks(*lengths: int, channels: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.3 * torch.rand(channels, length, generator=generator) - 0.15 for length in lengths]


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_every_format_keeps_length_rate_and_channels_and_repeats_its_bytes(
    tmp_path: Path, suffix: str
) -> None:
    for lengths in ((1,), (700, 1, 40_000)):
        path, again = tmp_path / f"a.{suffix}", tmp_path / "sub" / f"b.{suffix.upper()}"
        assert write_audio(path, blocks(*lengths), sample_rate=44_100, channels=2) == sum(lengths)
        write_audio(again, iter(blocks(*lengths)), sample_rate=44_100, channels=2)
        assert path.read_bytes() == again.read_bytes()
        audio, rate = soundfile.read(path)
        assert audio.shape == (sum(lengths), 2)
        assert rate == 44_100


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_lossless_formats_hold_the_samples_rounded_to_16_bits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    extremes = torch.tensor([[-1.0, 1.0, 0.0, 0.5 / 32_768, 1.6 / 32_768, -1.6 / 32_768]])
    write_audio(path, [extremes, *blocks(100, channels=1)], sample_rate=8_000, channels=1)
    pcm, _ = soundfile.read(path, dtype="int16")
    assert pcm[:6].tolist() == [-32_768, 32_767, 0, 0, 2, -2]
    expected = np.rint(blocks(100, channels=1)[0][0].numpy() * 32_768)
    np.testing.assert_array_equal(pcm[6:], expected)


def test_lossy_formats_sound_like_the_signal_and_repeat_in_another_process(tmp_path: Path) -> None:
    script = """
import sys, torch
from pathlib import Path
from distill_ray.generate.audio import write_audio
time = torch.arange(30_000) / 44_100
signal = torch.stack([0.5 * torch.sin(2764.6 * time), 0.3 * torch.sin(4146.9 * time)])
for path in sys.argv[1:]:
    write_audio(Path(path), [signal], sample_rate=44_100, channels=2)
"""
    time_T = torch.arange(30_000) / 44_100
    signal_CT = torch.stack([0.5 * torch.sin(2764.6 * time_T), 0.3 * torch.sin(4146.9 * time_T)])
    here, there = (
        [tmp_path / f"{place}.{suffix}" for suffix in ("ogg", "mp3")] for place in ("here", "there")
    )
    subprocess.run([sys.executable, "-c", script, *there], check=True)
    for path, other in zip(here, there, strict=True):
        write_audio(path, [signal_CT], sample_rate=44_100, channels=2)
        assert path.read_bytes() == other.read_bytes()
        audio_TC, _ = soundfile.read(path)
        error_C = np.mean((audio_TC.T - signal_CT.numpy()) ** 2, axis=1) / np.mean(
            signal_CT.numpy() ** 2, axis=1
        )
        assert (10 * np.log10(error_C) < -20).all()


def test_a_long_block_does_not_overflow_vorbis(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    assert write_audio(path, [torch.zeros(1, 3_000_000)], sample_rate=8_000, channels=1) == 3_000_000
    assert soundfile.info(path).frames == 3_000_000


def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    with pytest.raises(AudioError, match=r"cannot be written as mp3: .*; use another format"):
        write_audio(path, blocks(10), sample_rate=96_000, channels=2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AudioError, match=r"end its name with \.wav, \.flac, \.ogg, \.mp3"):
        check_suffix(tmp_path / "a.aac")
    assert check_suffix(Path("A.FLAC")) == "flac"


@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_on_a_pipe_is_read_by_libsndfile_and_holds_what_a_file_does(
    tmp_path: Path, channels: int
) -> None:
    lengths, form = (700, 1, 5_000), {"sample_rate": 44_100, "channels": channels}
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb") as file:
        assert stream_wav(file, blocks(*lengths, channels=channels), **form) == sum(lengths)
    with soundfile.SoundFile(ours) as sound:  # a descriptor: libsndfile itself reads the pipe
        assert (sound.samplerate, sound.channels, sound.subtype) == (44_100, channels, "PCM_16")
        pcm = sound.read(10_000, dtype="int16", always_2d=True)
    write_audio(tmp_path / "a.wav", blocks(*lengths, channels=channels), **form)
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16", always_2d=True)
    np.testing.assert_array_equal(pcm, expected)


def test_a_wav_on_a_pipe_is_flushed_before_more_is_asked_for() -> None:
    file = io.BytesIO()
    buffered = io.BufferedWriter(file)  # type: ignore[arg-type]
    sizes: list[int] = []

    def watched() -> Iterator[torch.Tensor]:
        for block_CT in blocks(10, 20, 30):
            sizes.append(len(file.getvalue()))
            yield block_CT

    stream_wav(buffered, watched(), sample_rate=8_000, channels=2)
    assert sizes == [44, 44 + 40, 44 + 120]
    header = file.getvalue()[:44]
    assert header[4:8] == header[40:44] == b"\xff" * 4


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_a_disk_that_is_full_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], suffix: str
) -> None:
    class Full:
        """A file on a disk with room for 4,000 bytes."""

        def __init__(self, file: io.BufferedRandom) -> None:
            self._file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def write(self, data: bytes) -> int:
            if self._file.tell() + len(data) > 4_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

    @contextlib.contextmanager
    def full_disk(path: Path, *, error: type[AudioError], follow_link: bool) -> Iterator[Full]:
        with atomic_file(path, error=error, follow_link=follow_link) as file:
            yield Full(file)  # type: ignore[arg-type]

    monkeypatch.setattr("distill_ray.generate.audio.atomic_file", full_disk)
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(AudioError, match=r"cannot be written \(No space left on device\); choose another"):
        write_audio(path, blocks(90_000, 90_000), sample_rate=44_100, channels=2)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""
