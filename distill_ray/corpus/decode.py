"""Decode one audio file in blocks to int16 PCM of a given rate and channel count, and judge it.

`readers.py` opens every format; `resample.py` changes the rate. Shape suffixes: C channels, T samples.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distill_ray.corpus.readers import Reader, claimed, open_reader
from distill_ray.errors import AudioError, InstallationError

if TYPE_CHECKING:
    import torch

    from distill_ray.corpus.resample import StreamingResampler

PCM_SCALE = 32_768
"""int16 value of full scale: a float sample is its int16 value over this."""

SILENCE_DBFS = -80.0
"""What a recording has to reach somewhere to be of use for training."""
AUDIBLE = 10 ** (SILENCE_DBFS / 20)
"""The same as a share of full scale."""

CLIPPING_SHARE = 1e-5
"""Fewer clipped samples are what lossy formats overshoot, and not worth a word."""

GREATEST_FLOAT = 64.0
"""36 dB above full scale: no mix is louder, and int16 values in a float file are."""

LEAST_RATE, GREATEST_RATE = 1_000, 768_000
# Samples over all channels that are decoded at once. Four times as many took torchaudio's convolution out of
# the cache: half the speed and 60 MB a thread.
BLOCK_VALUES = 1 << 16

PcmBlock = npt.NDArray[np.int16]


class AudioDecoder:
    """One pass over one file; the counts are final when `blocks` has ended.

    Mono is the mean of all channels; stereo is the first two, or the only one twice.
    """

    def __init__(self, path: Path, *, sample_rate: int, channels: int) -> None:
        self._path = path
        self._sample_rate = sample_rate
        self._channels = channels
        self.source_rate = 0
        self.source_channels = 0
        self.samples = 0
        self.clipped = 0
        self.note: str | None = None
        self._peak = 0.0
        self._sums = np.zeros(channels)
        self._mixed_samples = 0
        self._source_power = self._mixed_power = 0.0
        self._source_peaks: list[float] = []

    def blocks(self) -> Iterator[PcmBlock]:
        """The file as PCM blocks [C, T].

        Raises `AudioError` with a reason that does not repeat the path as soon as the file turns out to be
        undecodable, empty, not finite or shorter than its header says: discard what came before.
        """
        if not self._path.exists():
            raise AudioError("it does not exist")
        if self._path.is_dir():
            raise AudioError("it is a folder; name one audio file")
        if not self._path.is_file():  # a named pipe would be waited for
            raise AudioError("it is not a regular file")
        try:
            with contextlib.closing(open_reader(self._path)) as reader:
                yield from self._decoded(reader)
                self.note = reader.note
        except OSError as error:
            raise AudioError(f"it cannot be read: {error.strerror or error}") from error

    def _decoded(self, reader: Reader) -> Iterator[PcmBlock]:
        self.source_rate, self.source_channels = reader.rate, reader.channels
        if not LEAST_RATE <= self.source_rate <= GREATEST_RATE:
            raise AudioError(f"its header gives an absurd sample rate of {self.source_rate} Hz")
        resampler = self._resampler()
        decoded = 0
        for got_TC in reader.blocks(BLOCK_VALUES):
            if not np.isfinite(got_TC).all():
                raise AudioError(f"it holds NaN or infinite samples, near {decoded / self.source_rate:.1f} s")
            decoded += len(got_TC)
            self._check_scale(got_TC)
            mixed_CT = self._mix(got_TC)
            self._peak = max(self._peak, float(np.abs(mixed_CT).max()))
            self._measure(got_TC, mixed_CT)
            if self._peak < AUDIBLE:  # else nobody asks where the sound has gone
                self._note_peaks(got_TC)
            yield from self._pcm(resampler.push(mixed_CT) if resampler else mixed_CT)
        if resampler:
            yield from self._pcm(resampler.finish())
        if self.samples == 0:
            raise AudioError("it is empty: it holds no samples")

    def check_loud(self) -> None:
        """Raise `AudioError` where all that was decoded is silent, if only by the mixing."""
        if self._peak >= AUDIBLE:
            return
        lost = self.lost()
        if lost is None:
            raise AudioError(f"it is silent: no sample reaches {SILENCE_DBFS:.0f} dBFS")
        if self._channels > 1:
            raise AudioError(f"{lost}; --channels 1 mixes all")
        if max(self._source_peaks[:2]) >= AUDIBLE:
            raise AudioError(f"{lost}; --channels 2 keeps two")
        raise AudioError(f"{lost}; convert it to the channels to be used")

    def lost(self) -> str | None:
        """Why nothing audible came of a file that is not silent; None where that is not so."""
        if self._peak >= AUDIBLE or max(self._source_peaks, default=0.0) < AUDIBLE:
            return None
        if self._channels > 1:
            return "its first two channels are silent, and others are not used"
        return "its channels cancel when mixed to one"

    def altered(self) -> tuple[str, ...]:
        """What was decoded otherwise than the file has it, in phrases."""
        lost = self.lost()
        phrases = [f"{lost}: silence is left"] if lost else []
        if self.note:
            phrases.append(self.note)
        if self.clipped > CLIPPING_SHARE * self.samples * self._channels:
            phrases.append(f"{self.clipped:,} samples beyond full scale are clipped")
        return tuple(phrases)

    @property
    def offset(self) -> float:
        """The mean of the channel that is farthest from zero, as a share of full scale."""
        means = self._sums / max(1, self._mixed_samples)
        return float(means[np.abs(means).argmax()])

    @property
    def mixed_db(self) -> float:
        """Power of the mix over that of the channels: 0 for equal ones, −3 for unlike ones, less where they
        cancel."""
        if not self._source_power or not self._mixed_power:
            return 0.0
        return 10 * math.log10(self._mixed_power / self._source_power)

    def _measure(self, block_TC: npt.NDArray[np.float32], mixed_CT: npt.NDArray[np.float32]) -> None:
        self._sums += mixed_CT.sum(axis=1, dtype=np.float64)
        self._mixed_samples += mixed_CT.shape[1]
        if self._channels == 1 and block_TC.shape[1] > 1:
            self._source_power += float(np.vdot(block_TC, block_TC)) / block_TC.shape[1]
            self._mixed_power += float(np.vdot(mixed_CT, mixed_CT))

    def _check_scale(self, block_TC: npt.NDArray[np.float32]) -> None:
        if float(np.abs(block_TC).max()) > GREATEST_FLOAT:
            raise AudioError(
                f"its floats go beyond {GREATEST_FLOAT:.0f} times full scale (±1), as where int16 values are "
                "stored unscaled; divide them by 32768"
            )

    def _note_peaks(self, block_TC: npt.NDArray[np.float32]) -> None:
        # Channel by channel: numpy's maximum along the long axis takes forty times as long.
        peaks = [float(np.abs(channel_T).max()) for channel_T in block_TC.T]
        self._source_peaks = [max(pair) for pair in zip(self._source_peaks or peaks, peaks, strict=True)]

    def _resampler(self) -> StreamingResampler | None:
        if self.source_rate == self._sample_rate:
            return None
        resampler: StreamingResampler = load_resampling().StreamingResampler(
            self.source_rate, self._sample_rate, self._channels
        )
        return resampler

    def _mix(self, block_TC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self._channels == 1:
            mean_T1: npt.NDArray[np.float32] = block_TC.mean(axis=1, keepdims=True)
            return mean_T1.T
        if block_TC.shape[1] == 1:
            return np.repeat(block_TC.T, self._channels, axis=0)
        return np.ascontiguousarray(block_TC.T[: self._channels])

    def _pcm(self, signal_CT: npt.NDArray[np.float32]) -> Iterator[PcmBlock]:
        if not signal_CT.shape[1]:
            return
        rounded_CT = np.rint(signal_CT * np.float32(PCM_SCALE))
        # Exactly full scale, one step above the greatest int16, is no clipping that anybody hears.
        self.clipped += int(np.count_nonzero(np.abs(rounded_CT) > PCM_SCALE))
        self.samples += signal_CT.shape[1]
        yield np.clip(rounded_CT, -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)


def load_resampling() -> ModuleType:
    """`resample.py`, which needs torch; raises `InstallationError` where torchaudio does not load."""
    try:
        return importlib.import_module("distill_ray.corpus.resample")
    except (ImportError, OSError) as error:
        raise InstallationError(
            f"torchaudio, which resamples, cannot be loaded ({error}); run `distill-ray doctor`"
        ) from error


def load_audio(path: str | os.PathLike[str], *, sample_rate: int, channels: int) -> torch.Tensor:
    """A whole file as an int16 tensor [C, T] at `sample_rate`; raises `AudioError` that names the file."""
    import torch

    decoder = AudioDecoder(Path(path), sample_rate=sample_rate, channels=channels)
    try:
        return torch.from_numpy(np.concatenate(list(decoder.blocks()), axis=1))
    except AudioError as error:
        raise AudioError(f"{os.fspath(path)} cannot be used: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the header of a file says; nothing of it is checked."""

    rate: int
    seconds: float


def probe(path: Path) -> Claim:
    """The header's claim, all zero where there is no readable header."""
    rate, seconds = claimed(path)
    return Claim(rate=rate, seconds=seconds)
