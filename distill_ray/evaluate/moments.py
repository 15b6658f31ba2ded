"""The nearest moment of training audio of every window of a sound, by matrix products.

Every second (a window each half second, `fingerprint.py`) is compared with every moment of the training
audio, 25 a second; the best few are compared again 10 ms by 10 ms. `copies.py` says which of them are copies.

Legend: S frames, M bands, N windows, D values of a patch, K candidates, O fine offsets, P places of patches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.errors import AudioError
from distill_ray.evaluate import fingerprint
from distill_ray.evaluate.fingerprint import COARSE, FINE_RATE, FRAMES, SPACING
from distill_ray.evaluate.sound import Sound

STEP_SECONDS = 0.5
MOST_WINDOWS = 480
STRETCH = 10
"""Windows in a row that are taken out of a recording at once for a calibration: some that can follow."""
_CANDIDATES = 8
_BLOCK = 4096
_BATCH = 1024

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Windows:
    """Windows of one sound in a row, half a second apart."""

    name: str
    times: Tensor
    """Seconds [N]."""
    levels_NSM: Tensor
    """Fine frames of each."""
    excluded: int = -1
    """The known file that they are of and are not to be compared with."""

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Found:
    """The nearest moment of each window: its distance, file and seconds [N] each."""

    distance: Tensor
    file: Tensor
    time: Tensor

    def __getitem__(self, part: slice | Tensor) -> Found:
        return Found(self.distance[part], self.file[part], self.time[part])


class KnownAudio:
    """Levels of all training files end to end, in float16, and the exact search over them."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.names: list[str] = []
        self._levels: list[Tensor] = []
        self._seconds_a_frame: list[float] = []
        self._sums: Tensor | None = None

    def add(self, sound: Sound) -> int:
        """Take a training file in; returns its number."""
        levels_SM = fingerprint.levels(sound, COARSE, self.device)
        sums = fingerprint.mean_spectrum(levels_SM)
        self._sums = sums if self._sums is None else self._sums + sums
        self._levels.append(levels_SM.half())
        self._seconds_a_frame.append(COARSE * fingerprint.fine_hop(sound.sample_rate) / sound.sample_rate)
        self.names.append(sound.name)
        return len(self.names) - 1

    def close(self) -> None:
        """No more files. Raises AudioError where there is nothing to compare with."""
        if self._sums is None or not float(self._sums[-1]):
            raise AudioError(
                "the training audio is empty or silent, so that copies of it cannot be looked for; check "
                "that this is the corpus that the model was trained on"
            )
        self.mean_M = self._sums[:-1] / self._sums[-1]
        counts = torch.tensor([len(levels) for levels in self._levels])
        self._all_SM = torch.cat(self._levels)
        self._levels.clear()
        self._begin_F = (counts.cumsum(0) - counts).to(self.device)
        # Where a patch may begin: all its frames lie in one file.
        self._last_F = self._begin_F + counts.to(self.device) - self._reach - 1
        self._seconds_F = torch.tensor(self._seconds_a_frame, dtype=torch.float64, device=self.device)
        starts = [
            torch.arange(int(begin), int(last) + 1, SPACING // COARSE, device=self.device)
            for begin, last in zip(self._begin_F, self._last_F, strict=True)
        ]
        self._starts_P = torch.cat(starts)
        self._file_P = torch.repeat_interleave(
            torch.arange(len(starts), device=self.device),
            torch.tensor([len(places) for places in starts], device=self.device),
        )

    @property
    def _reach(self) -> int:
        """Frames from the first to the last one of a patch."""
        return (FRAMES - 1) * SPACING // COARSE

    def patches(self, starts: Tensor) -> Tensor:
        """Normalised patches [N, D] that begin at frames `starts` [N]."""
        frames_S = torch.arange(FRAMES, device=self.device) * (SPACING // COARSE)
        return fingerprint.normalised(self._all_SM[starts[:, None] + frames_S].float(), self.mean_M)

    def each(self, stretches: Sequence[Windows]) -> list[Found]:
        """What `nearest` says of each stretch."""
        found = self.nearest(stretches)
        ends = list(itertools.accumulate(map(len, stretches)))
        return [found[end - len(stretch) : end] for stretch, end in zip(stretches, ends, strict=True)]

    def nearest(self, stretches: Sequence[Windows]) -> Found:
        """The nearest moment of every window; silent ones have an infinite distance."""
        levels_NSM = torch.cat([stretch.levels_NSM for stretch in stretches])
        excluded_N = torch.cat(
            [torch.full((len(stretch),), stretch.excluded, device=self.device) for stretch in stretches]
        )
        parts = [
            self._nearest(levels_NSM[begin : begin + _BATCH], excluded_N[begin : begin + _BATCH])
            for begin in range(0, len(levels_NSM), _BATCH)
        ]
        return Found(
            torch.cat([part.distance for part in parts]),
            torch.cat([part.file for part in parts]),
            torch.cat([part.time for part in parts]),
        )

    def _nearest(self, levels_NSM: Tensor, excluded_N: Tensor) -> Found:
        queries_ND = self._queries(levels_NSM, 0)
        count = min(_CANDIDATES, len(self._starts_P))
        best_NK = queries_ND.new_full((len(queries_ND), count), -2.0)
        place_NK = torch.zeros_like(best_NK, dtype=torch.int64)
        for begin in range(0, len(self._starts_P), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            cosine_NP = queries_ND @ self.patches(self._starts_P[block]).T
            cosine_NP.masked_fill_(self._file_P[block] == excluded_N[:, None], -2.0)
            value_NK, index_NK = cosine_NP.topk(min(count, cosine_NP.shape[1]))
            best_NK, order_NK = torch.cat((best_NK, value_NK), dim=1).topk(count)
            place_NK = torch.cat((place_NK, index_NK + begin), dim=1).gather(1, order_NK)
        # Where there are few places, those of the excluded file are among the best.
        files_NK = self._file_P[place_NK]
        return self.refined(
            levels_NSM, self._starts_P[place_NK], files_NK, excluded_NK=files_NK == excluded_N[:, None]
        )

    def refined(
        self, levels_NSM: Tensor, starts_NK: Tensor, files_NK: Tensor, *, excluded_NK: Tensor | None = None
    ) -> Found:
        """The nearest of the moments within 30 ms of the given ones, in steps of 10 ms."""
        shape = (*starts_NK.shape, 3)
        around = torch.tensor([-1, 0, 1], device=self.device)
        begin, last = self._begin_F[files_NK], self._last_F[files_NK]
        near_NK3 = torch.minimum(
            torch.maximum(starts_NK[..., None] + around, begin[..., None]), last[..., None]
        )
        known_NXD = self.patches(near_NK3.flatten()).view(len(levels_NSM), shape[1] * 3, -1)
        queries = torch.stack([self._queries(levels_NSM, offset) for offset in range(COARSE)], dim=2)
        cosine_NXO = known_NXD @ queries
        if excluded_NK is not None:
            cosine_NXO.masked_fill_(excluded_NK.repeat_interleave(3, dim=1)[..., None], -2.0)
        flat_N = cosine_NXO.flatten(1).argmax(1)
        which_N, offset_N = flat_N // COARSE, flat_N % COARSE
        row_N = torch.arange(len(levels_NSM), device=self.device)
        file_N = files_NK[row_N, which_N // 3]
        frame_N = near_NK3.flatten(1)[row_N, which_N] - self._begin_F[file_N]
        time_N = (frame_N - offset_N / COARSE) * self._seconds_F[file_N]
        distance_N = fingerprint.distances(cosine_NXO.flatten(1)[row_N, flat_N])
        silent_N = ~queries[:, :, 0].any(1)
        return Found(distance_N.masked_fill(silent_N, math.inf), file_N, time_N.clamp(min=0.0))

    def at(self, levels_NSM: Tensor, files_N: Tensor, times_N: Tensor) -> Tensor:
        """Distances [N] of windows to given moments; infinite for moments outside their file."""
        starts_N = self._begin_F[files_N] + (times_N / self._seconds_F[files_N]).round().long()
        last_N = self._last_F[files_N]
        found = self.refined(levels_NSM, torch.minimum(starts_N, last_N)[:, None], files_N[:, None])
        outside_N = (times_N < -STEP_SECONDS / 10) | (starts_N > last_N + 1)
        return found.distance.masked_fill(outside_N, math.inf)

    def _queries(self, levels_NSM: Tensor, offset: int) -> Tensor:
        frames_S = offset + torch.arange(FRAMES, device=self.device) * SPACING
        return fingerprint.normalised(levels_NSM[:, frames_S], self.mean_M)


def windows_in(
    sound: Sound, device: torch.device | str, *, first: int = 0, count: int | None = None
) -> Windows:
    """`count` windows of a sound from the `first` one on (None: all); a short sound is one window."""
    rate = sound.sample_rate
    hop = fingerprint.fine_hop(rate)
    step = round(STEP_SECONDS * FINE_RATE)
    reach = (FRAMES - 1) * SPACING + COARSE
    if count is not None:
        begin = first * step * hop
        end = begin + (count - 1) * step * hop + fingerprint.patch_samples(rate)
        sound = sound._replace(audio_CT=sound.audio_CT[:, begin:end])
    levels_SM = fingerprint.levels(sound, 1, device)
    levels_NSM = levels_SM.unfold(0, reach, step).transpose(1, 2)
    numbers = torch.arange(first, first + len(levels_NSM))
    return Windows(sound.name, numbers * step * hop / rate, levels_NSM)


def batches(sounds: Iterable[Sound], device: torch.device | str, tell: Progress) -> Iterator[list[Windows]]:
    """The windows of all sounds, whole sounds at a time, until a search is worth its while."""
    waiting: list[Windows] = []
    for number, sound in enumerate(sounds):
        tell(number, 0, sound.name)
        waiting.append(windows_in(sound, device))
        if sum(map(len, waiting)) >= _BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class Sample:
    """Stretches of windows, evenly over all sounds that are added, at most MOST_WINDOWS windows."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._every, self._seen = 1, 0
        self.stretches: list[Windows] = []

    @property
    def windows(self) -> int:
        return sum(map(len, self.stretches))

    def add(self, sound: Sound, *, excluded: int = -1) -> None:
        rate = sound.sample_rate
        step = round(STEP_SECONDS * FINE_RATE) * fingerprint.fine_hop(rate)
        total = max(1, (sound.audio_CT.shape[1] - fingerprint.patch_samples(rate)) // step + 1)
        for first in range(0, total, STRETCH):
            if self._seen % self._every == 0:
                count = min(STRETCH, total - first)
                windows = windows_in(sound, self._device, first=first, count=count)
                self.stretches.append(Windows(windows.name, windows.times, windows.levels_NSM, excluded))
                if self.windows > MOST_WINDOWS:
                    del self.stretches[1::2]
                    self._every *= 2
            self._seen += 1
