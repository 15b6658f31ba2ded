"""Audio files out: floats → 16-bit PCM → wav, flac, ogg (Vorbis) or mp3, block by block and atomically;
or wav to a pipe.

Reading is `corpus/decode.py`'s. Legend: C channels, T samples.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.config.generation import AUDIO_FORMATS
from distill_ray.corpus import PCM_SCALE
from distill_ray.errors import AudioError
from distill_ray.generate.ogg import fix_serial
from distill_ray.storage.atomic import atomic_file

# libsndfile's encoders recurse over what one call writes; a minute at once overflows Vorbis' stack.
_WRITE_SAMPLES = 1 << 15
_LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


class _Output:
    """The file that libsndfile writes to by calling back from C, where an error would be lost: the first one
    is kept, and from then on nothing is written.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.failure: OSError | None = None
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def write(self, data: bytes) -> int:
        if self.failure is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self.failure = error
        return 0


def check_suffix(path: Path) -> str:
    """The audio format that the name of `path` asks for. Raises AudioError for any other name."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in AUDIO_FORMATS:
        raise AudioError(f"{path} names no audio format; end its name with .{', .'.join(AUDIO_FORMATS)}")
    return suffix


def write_audio(path: Path, blocks_CT: Iterable[Tensor], *, sample_rate: int, channels: int) -> int:
    """Write float blocks in [-1, 1] to `path` in the format of its suffix; returns the samples written.

    The same blocks always give the same bytes. Raises AudioError where the format does not know the rate
    or the file cannot be written.
    """
    audio_format = check_suffix(path)
    container, encoding = _LIBSNDFILE[audio_format]
    samples = 0
    with atomic_file(path, error=AudioError, follow_link=True) as file:
        output = _Output(file)
        try:
            with soundfile.SoundFile(
                output, "w", samplerate=sample_rate, channels=channels, format=container, subtype=encoding
            ) as sound:
                for block_CT in blocks_CT:
                    values_TC = _values(block_CT, lossless=encoding == "PCM_16")
                    for start in range(0, len(values_TC), _WRITE_SAMPLES):
                        sound.write(values_TC[start : start + _WRITE_SAMPLES])
                    samples += block_CT.shape[1]
        except AssertionError:  # soundfile's, of samples that were not written
            if output.failure is None:
                raise
        except soundfile.LibsndfileError as problem:
            if output.failure is None:
                raise AudioError(
                    f"{path} cannot be written as {audio_format}: "
                    f"{problem.error_string.strip().rstrip('.')}; use another format, such as wav"
                ) from problem
        if output.failure is not None:
            raise output.failure
        if audio_format == "ogg":
            fix_serial(file)
    return samples


def stream_wav(file: BinaryIO, blocks_CT: Iterable[Tensor], *, sample_rate: int, channels: int) -> int:
    """Write float blocks in [-1, 1] to a pipe as 16-bit WAV, each flushed at once; returns the samples.

    The header comes before the first block is asked for. Its sizes are 0xFFFFFFFF, as ffmpeg's and sox's for
    a pipe: a sound may be cut short or longer than the 4 GB of a WAV file, and readers then go by its end.
    The samples are those of `write_audio`. Whatever `file` raises goes through, BrokenPipeError where its
    reader has gone.
    """
    file.write(_wav_header(sample_rate, channels))
    file.flush()
    samples = 0
    for block_CT in blocks_CT:
        file.write(_values(block_CT, lossless=True).astype("<i2").tobytes())
        file.flush()
        samples += block_CT.shape[1]
    return samples


def _wav_header(sample_rate: int, channels: int) -> bytes:
    frame_bytes = 2 * channels
    pcm = struct.pack("<HHIIHH", 1, channels, sample_rate, frame_bytes * sample_rate, frame_bytes, 16)
    unknown = b"\xff" * 4
    return b"RIFF" + unknown + b"WAVEfmt " + struct.pack("<I", len(pcm)) + pcm + b"data" + unknown


def _values(block_CT: Tensor, *, lossless: bool) -> NDArray[Any]:
    """What is written, [T, C]: rounded here to 16 bits, or floats for libsndfile to encode.

    (libsndfile 1.2.2 encodes int16 to mp3 as noise that differs from run to run.)
    """
    audio_TC = np.ascontiguousarray(block_CT.float().cpu().numpy().T)
    if not lossless:
        return audio_TC
    return np.clip(np.rint(audio_TC * np.float32(PCM_SCALE)), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
