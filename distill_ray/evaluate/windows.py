"""Sounds → windows of one length → features.

A sound is mixed to mono, brought to the judge's rate and cut into windows that overlap. Sounds that are
shorter than a window are joined end to end in the order they come in, on every side alike: a corpus of words
or drum hits is compared with a stream of words or hits.

Legend: T samples, N windows, D features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_ray.corpus.resample import StreamingResampler
from distill_ray.evaluate.features import long_features, short_features
from distill_ray.evaluate.sound import Sound
from distill_ray.evaluate.spectra import RATE

Array = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class WindowKind:
    """How sounds are cut for some groups: seconds of a window, between two starts, and of a block.

    Blocks are what interleaved halves and bootstraps are made of; a window that lies in two of them is
    left out.
    """

    seconds: float
    step_seconds: float
    block_seconds: float
    joins: bool
    """Whether sounds that are too short are joined, or else left out."""
    measure: Callable[[Tensor], dict[str, Tensor]]

    @property
    def samples(self) -> int:
        return round(self.seconds * RATE)


SHORT = WindowKind(seconds=1.5, step_seconds=0.75, block_seconds=6.0, joins=True, measure=short_features)
LONG = WindowKind(seconds=8.0, step_seconds=2.0, block_seconds=24.0, joins=False, measure=long_features)
KINDS = {"short": SHORT, "long": LONG}
_BATCH_SECONDS = 48.0


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Features of all windows of one kind of a set of sounds."""

    features: Mapping[str, Array]
    """[N, D] for each group."""
    block_N: Index
    """Stretches of `block_seconds`, counted over all sounds; a window lies wholly within its block."""
    sound_N: Index
    """What is drawn as a whole: sounds, or blocks of the sounds that were joined."""

    def __len__(self) -> int:
        return len(self.block_N)


def measure(
    sounds: Iterable[Sound], *, device: torch.device | str = "cpu", on_sound: Callable[[Sound], None]
) -> dict[str, Windows]:
    """The windows of each of `KINDS`; `on_sound` is told of each sound when it has been taken in."""
    cutters = {name: _Cutter(kind, torch.device(device)) for name, kind in KINDS.items()}
    for sound in sounds:
        mono_T = at_judges_rate(sound)
        for cutter in cutters.values():
            cutter.add(mono_T)
        on_sound(sound)
    return {name: cutter.finish() for name, cutter in cutters.items()}


def windows_of(seconds: float) -> int:
    """How many short windows a sound of so many seconds has."""
    return sum(1 for _ in _starts(round(seconds * RATE), SHORT))


def _starts(samples: int, kind: WindowKind) -> Iterator[tuple[int, int]]:
    """First sample and block of each window of `kind` in so many samples."""
    block = round(kind.block_seconds * RATE)
    for start in range(0, samples - kind.samples + 1, round(kind.step_seconds * RATE)):
        if start // block == (start + kind.samples - 1) // block:
            yield start, start // block


def at_judges_rate(sound: Sound) -> Array:
    """Mono samples [T] at `RATE`."""
    mono_1T = sound.audio_CT.detach().float().mean(0, keepdim=True).cpu().numpy()
    if sound.sample_rate == RATE:
        return np.ascontiguousarray(mono_1T[0])
    resampler = StreamingResampler(sound.sample_rate, RATE, 1)
    resampled_T: Array = np.concatenate((resampler.push(mono_1T), resampler.finish()), axis=1)[0]
    return resampled_T


class _Cutter:
    """Cuts sounds into the windows of one kind and measures them batch by batch."""

    def __init__(self, kind: WindowKind, device: torch.device) -> None:
        self._kind, self._device = kind, device
        self._batch = max(1, round(_BATCH_SECONDS / kind.seconds))
        self._waiting: list[Array] = []
        self._short: list[Array] = []
        self._measured: list[dict[str, Array]] = []
        self._blocks: list[int] = []
        self._sounds: list[int] = []
        self._next_block = self._next_sound = 0

    def add(self, mono_T: Array) -> None:
        if len(mono_T) >= self._kind.samples:
            self._cut(mono_T)
        elif self._kind.joins:
            self._short.append(mono_T)

    def finish(self) -> Windows:
        if sum(map(len, self._short)) >= self._kind.samples:
            self._cut(np.concatenate(self._short), joined=True)
        self._measure()
        return Windows(
            features={
                name: np.concatenate([part[name] for part in self._measured])
                for name in (self._measured[0] if self._measured else ())
            },
            block_N=np.array(self._blocks, dtype=np.int64),
            sound_N=np.array(self._sounds, dtype=np.int64),
        )

    def _cut(self, mono_T: Array, *, joined: bool = False) -> None:
        last = 0
        for start, last in _starts(len(mono_T), self._kind):
            self._waiting.append(mono_T[start : start + self._kind.samples])
            self._blocks.append(self._next_block + last)
            self._sounds.append(self._next_sound + (last if joined else 0))
            if len(self._waiting) == self._batch:
                self._measure()
        self._next_block += last + 1
        self._next_sound += last + 1 if joined else 1

    @torch.inference_mode()
    def _measure(self) -> None:
        if not self._waiting:
            return
        audio_BT = torch.from_numpy(np.stack(self._waiting)).to(self._device)
        with exact_float32():
            found = self._kind.measure(audio_BT)
        self._measured.append({name: values.cpu().numpy() for name, values in found.items()})
        self._waiting = []


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Neither TF32 nor autocast, so that a GPU's features are a CPU's."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
