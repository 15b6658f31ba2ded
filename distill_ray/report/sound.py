"""Sounds of a report: read from files, cut to what the page has room for, and encoded for a browser.

MP3, because every browser plays it at the usual sample rates; Opus in Ogg is missing from older Safaris.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from distill_ray.report.facts import Sound

MEDIA_TYPE = "audio/mpeg"
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_WRITE_SAMPLES = 1 << 15  # libsndfile's encoders recurse over what one call writes
_LONGEST_SECONDS = 12.0
_FADE_SECONDS = 0.02


def read_sound(path: Path, label: str, *, start_s: float = 0.0, seconds: float = _LONGEST_SECONDS) -> Sound:
    """A part of an audio file. Raises OSError or soundfile.LibsndfileError for one that cannot be read."""
    with soundfile.SoundFile(path) as file:
        rate = file.samplerate
        file.seek(min(round(start_s * rate), file.frames))
        audio_TC = file.read(round(seconds * rate), dtype="float32", always_2d=True)
    return Sound(label=label, audio_TC=audio_TC, sample_rate=rate)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A sound as the page holds it; `cut` where it is shorter than the one it was made of."""

    content: bytes
    seconds: float
    cut: bool


def encode(sound: Sound, *, seconds: float | None = None) -> Encoded:
    """MP3 of the sound's first `seconds`, faded out where it is cut.

    More than two channels become their mean; a rate that MP3 does not have is resampled.
    """
    audio_TC, rate = sound.audio_TC, sound.sample_rate
    whole = len(audio_TC) / rate
    cut = seconds is not None and seconds < whole
    if cut and seconds is not None:
        audio_TC = _faded(audio_TC[: max(1, round(seconds * rate))], rate)
    if audio_TC.shape[1] > 2:
        audio_TC = audio_TC.mean(axis=1, keepdims=True)
    if rate not in _MP3_RATES:
        audio_TC, rate = _resampled(audio_TC, rate)
    content = io.BytesIO()
    with soundfile.SoundFile(
        content,
        "w",
        samplerate=rate,
        channels=audio_TC.shape[1],
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.25,
    ) as file:
        for start in range(0, len(audio_TC), _WRITE_SAMPLES):
            file.write(np.clip(audio_TC[start : start + _WRITE_SAMPLES], -1.0, 1.0))
    return Encoded(content=content.getvalue(), seconds=len(audio_TC) / rate, cut=cut)


def encode_all(sounds: Sequence[Sound], most_bytes: int) -> list[Encoded]:
    """Each sound, in order, all of them within `most_bytes`: whole where that is possible, else all cut to
    one length.
    """
    encoded = [encode(sound) for sound in sounds]
    seconds = max((each.seconds for each in encoded), default=0.0)
    while sum(len(each.content) for each in encoded) > most_bytes:
        seconds *= 0.95 * min(1.0, most_bytes / sum(len(each.content) for each in encoded))
        encoded = [encode(sound, seconds=seconds) for sound in sounds]
    return encoded


def _faded(audio_TC: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    count = min(len(audio_TC), round(_FADE_SECONDS * rate))
    faded = audio_TC.copy()
    faded[len(faded) - count :] *= np.linspace(1, 0, count, dtype=np.float32)[:, None]
    return faded


def _resampled(audio_TC: npt.NDArray[np.float32], rate: int) -> tuple[npt.NDArray[np.float32], int]:
    import torch
    import torchaudio

    wanted = next((each for each in _MP3_RATES if each >= rate), _MP3_RATES[-1])
    audio_CT = torch.from_numpy(np.ascontiguousarray(audio_TC.T))
    resampled_CT = torchaudio.functional.resample(audio_CT, rate, wanted)
    return np.ascontiguousarray(resampled_CT.numpy().T), wanted
