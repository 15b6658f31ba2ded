"""Audio files out: floats → 16-bit PCM → wav, flac, ogg (Vorbis) or mp3, block by block and atomically.

Reading is `corpus/decode.py`'s. Legend: C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.bundle.atomic import atomic_file
from distill_ray.corpus import PCM_SCALE
from distill_ray.errors import AudioError
from distill_ray.generate.ogg import fix_serial
from distill_ray.generate.settings import AUDIO_FORMATS

# libsndfile's encoders recurse over what one call writes; a minute at once overflows Vorbis' stack.
_WRITE_SAMPLES = 1 << 15
_LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


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
    with atomic_file(path, error=AudioError) as file:
        try:
            with soundfile.SoundFile(
                file, "w", samplerate=sample_rate, channels=channels, format=container, subtype=encoding
            ) as sound:
                for block_CT in blocks_CT:
                    pcm_CT = _pcm(block_CT)
                    for start in range(0, pcm_CT.shape[1], _WRITE_SAMPLES):
                        sound.write(pcm_CT[:, start : start + _WRITE_SAMPLES].T)
                    samples += block_CT.shape[1]
        except soundfile.LibsndfileError as problem:
            raise AudioError(
                f"{path} cannot be written as {audio_format}: {problem.error_string.strip().rstrip('.')}; "
                "use another format, such as wav"
            ) from problem
        if audio_format == "ogg":
            fix_serial(file)
    return samples


def _pcm(audio_CT: Tensor) -> NDArray[np.int16]:
    scaled_CT: NDArray[np.float32] = np.rint(audio_CT.cpu().numpy() * np.float32(PCM_SCALE))
    return np.clip(scaled_CT, -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
