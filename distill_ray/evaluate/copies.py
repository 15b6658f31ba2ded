"""Which generated seconds are copied from the training audio, from which file and time.

Every second (a window each half second, `fingerprint.py`) is compared with every moment of the training
audio, 25 a second, by matrix products; the best few are compared again 10 ms by 10 ms. What counts as near is
calibrated: the same search is made for windows of recordings that copy nothing, which are the held-out ones
or, where little is held out, also training files against all other training files. The nearest hundredth of
these has a distance; a copy has at most half of it, or four fifths if its neighbour half a second on is as
near to the moment half a second on.

The false-positive rate is the share of these windows that would count as copies, each half of them judged by
a threshold from the other half. The verdict asks whether the copies found are more than that rate explains,
with one more mistake than was counted: few windows convict nobody.

Legend: S frames, M bands, N windows, D values of a patch, K candidates, O fine offsets.
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
from distill_ray.evaluate.judgement import Copies, NearestMoment
from distill_ray.evaluate.sound import Sound
from distill_ray.prior.memorization import COPIES

STEP_SECONDS = 0.5
NEAREST_SHARE = 0.01
"""The share of audio that copies nothing whose distance copies are measured by."""
ALONE, WITH_NEIGHBOUR = 0.5, 0.8
"""Times that distance: what counts as a copy by itself, and with its neighbour."""
ENOUGH_WINDOWS = 240
"""Held-out windows that are enough for a calibration; fewer are joined by training files."""
MOST_WINDOWS = 480
STRETCH = 4
"""Windows in a row that are taken out of a recording at once for a calibration."""
UNLIKELY = 0.05
NO_COPIES, UNJUDGED = "none found", "cannot be judged"
_CANDIDATES = 8
_BLOCK = 4096
_BATCH = 1024

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is near for audio that copies nothing.

    threshold, median: distances; windows: how many they rest on; held_out: whether those are of held-out
    recordings alone; false_positive_rate: their share that would count as copies.
    """

    threshold: float
    median: float
    false_positive_rate: float
    windows: int
    held_out: bool


@dataclass(frozen=True)
class _Windows:
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
class _Found:
    """The nearest moment of each window: its distance, file and seconds [N] each."""

    distance: Tensor
    file: Tensor
    time: Tensor

    def __getitem__(self, part: slice | Tensor) -> _Found:
        return _Found(self.distance[part], self.file[part], self.time[part])


class CopyDetector:
    """The training audio as it is recognised, and what is near for audio that copies nothing."""

    def __init__(self, known: _Known, calibration: Calibration | None) -> None:
        self._known = known
        self.calibration = calibration

    @classmethod
    def fit(
        cls,
        training: Iterable[Sound],
        held_out: Iterable[Sound] = (),
        *,
        device: torch.device | str = "cpu",
        on_progress: Progress | None = None,
    ) -> CopyDetector:
        """Learn the training audio and calibrate; both are read once, one sound at a time.

        Kept in memory: 3.2 kB for each second of training. Raises AudioError where the training audio is
        empty or silent. `calibration` is None where nothing is held out of a single training file.
        """
        tell = on_progress or (lambda done, total, note: None)
        known = _Known(device)
        own, others = _Sample(device), _Sample(device)
        for sound in training:
            tell(len(known.names), 0, sound.name)
            own.add(sound, excluded=known.add(sound))
        known.close()
        for sound in held_out:
            tell(len(known.names), 0, sound.name)
            others.add(sound)
        is_enough = others.windows >= ENOUGH_WINDOWS
        chosen = list(others.stretches)
        if not is_enough and len(known.names) > 1:
            chosen.extend(own.stretches)
        return cls(known, _calibrate(known, chosen, held_out=is_enough) if chosen else None)

    def find(self, sounds: Iterable[Sound], *, on_progress: Progress | None = None) -> Copies:
        """The verdict on `sounds` and the nearest moment of each of their seconds, the nearest first.

        Seconds that are silent have none. Raises AudioError where there is no sound.
        """
        tell = on_progress or (lambda done, total, note: None)
        moments: list[NearestMoment] = []
        copied = total = longest = 0
        for stretches in _batches(sounds, self._known.device, tell):
            for windows, found in zip(stretches, self._known.each(stretches), strict=True):
                total += len(windows)
                if self.calibration:
                    is_copy_N = _confirmed(self._known, windows, found, self.calibration.threshold)
                    copied += int(is_copy_N.sum())
                    longest = max(longest, _longest_run(is_copy_N))
                moments.extend(self._moments(windows, found))
        if not total:
            raise AudioError("there is no sound to look for copies in; give at least one audio file")
        moments.sort(key=lambda moment: moment.distance)
        calibration = self.calibration
        return Copies(
            verdict=_verdict(copied, total, calibration),
            share=copied / total,
            false_positive_rate=calibration.false_positive_rate if calibration else None,
            calibration_windows=calibration.windows if calibration else 0,
            calibrated_on_held_out=bool(calibration and calibration.held_out),
            threshold=calibration.threshold if calibration else None,
            longest_s=(longest - 1) * STEP_SECONDS + fingerprint.SECONDS if longest else 0.0,
            nearest=tuple(moments),
        )

    def _moments(self, windows: _Windows, found: _Found) -> Iterator[NearestMoment]:
        """One for each second that can be heard: the nearer of its two windows."""
        usual = self.calibration.median if self.calibration else None
        per_second = round(fingerprint.SECONDS / STEP_SECONDS)
        for start in range(0, len(windows), per_second):
            part = found[start : start + per_second]
            best = int(part.distance.argmin())
            distance = float(part.distance[best])
            if math.isinf(distance):
                continue
            yield NearestMoment(
                file=windows.name,
                time_s=float(windows.times[start + best]),
                source=self._known.names[int(part.file[best])],
                source_time_s=float(part.time[best]),
                distance=distance,
                ratio=distance / usual if usual else None,
            )


def find_copies(
    generated: Iterable[Sound],
    training: Iterable[Sound],
    held_out: Iterable[Sound] = (),
    *,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> Copies:
    """`CopyDetector.fit` and `find` in one; for several sets of sounds keep the detector."""
    detector = CopyDetector.fit(training, held_out, device=device, on_progress=on_progress)
    return detector.find(generated, on_progress=on_progress)


class _Known:
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

    def each(self, stretches: Sequence[_Windows]) -> list[_Found]:
        """What `nearest` says of each stretch."""
        found = self.nearest(stretches)
        ends = list(itertools.accumulate(map(len, stretches)))
        return [found[end - len(stretch) : end] for stretch, end in zip(stretches, ends, strict=True)]

    def nearest(self, stretches: Sequence[_Windows]) -> _Found:
        """The nearest moment of every window; silent ones have an infinite distance."""
        levels_NSM = torch.cat([stretch.levels_NSM for stretch in stretches])
        excluded_N = torch.cat(
            [torch.full((len(stretch),), stretch.excluded, device=self.device) for stretch in stretches]
        )
        parts = [
            self._nearest(levels_NSM[begin : begin + _BATCH], excluded_N[begin : begin + _BATCH])
            for begin in range(0, len(levels_NSM), _BATCH)
        ]
        return _Found(
            torch.cat([part.distance for part in parts]),
            torch.cat([part.file for part in parts]),
            torch.cat([part.time for part in parts]),
        )

    def _nearest(self, levels_NSM: Tensor, excluded_N: Tensor) -> _Found:
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
    ) -> _Found:
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
        return _Found(distance_N.masked_fill(silent_N, math.inf), file_N, time_N.clamp(min=0.0))

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


def _windows(
    sound: Sound, device: torch.device | str, *, first: int = 0, count: int | None = None
) -> _Windows:
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
    return _Windows(sound.name, numbers * step * hop / rate, levels_NSM)


def _batches(sounds: Iterable[Sound], device: torch.device | str, tell: Progress) -> Iterator[list[_Windows]]:
    """The windows of all sounds, whole sounds at a time, until a search is worth its while."""
    waiting: list[_Windows] = []
    for number, sound in enumerate(sounds):
        tell(number, 0, sound.name)
        waiting.append(_windows(sound, device))
        if sum(map(len, waiting)) >= _BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class _Sample:
    """Stretches of windows, evenly over all sounds that are added, at most MOST_WINDOWS windows."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._every, self._seen = 1, 0
        self.stretches: list[_Windows] = []

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
                windows = _windows(sound, self._device, first=first, count=count)
                self.stretches.append(_Windows(windows.name, windows.times, windows.levels_NSM, excluded))
                if self.windows > MOST_WINDOWS:
                    del self.stretches[1::2]
                    self._every *= 2
            self._seen += 1


def _calibrate(known: _Known, stretches: Sequence[_Windows], *, held_out: bool) -> Calibration | None:
    """None where no window can be heard."""
    parts = known.each(stretches)
    distances = torch.cat([part.distance for part in parts])
    if not bool(torch.isfinite(distances).any()):
        return None
    halves = _halves(stretches)
    mistaken = 0
    for judged in (0, 1):
        fitted = [part.distance for part, half in zip(parts, halves, strict=True) if half != judged]
        others = torch.cat(fitted) if fitted else distances
        threshold = _threshold(others if bool(torch.isfinite(others).any()) else distances)
        for stretch, part, half in zip(stretches, parts, halves, strict=True):
            if half == judged:
                mistaken += int(_confirmed(known, stretch, part, threshold).sum())
    windows = len(distances)
    return Calibration(
        threshold=_threshold(distances),
        median=float(distances[torch.isfinite(distances)].median()),
        false_positive_rate=mistaken / windows,
        windows=windows,
        held_out=held_out,
    )


def _halves(stretches: Sequence[_Windows]) -> list[int]:
    """0 or 1 for each: whole recordings alternate, stretches where there is only one recording."""
    names = list(dict.fromkeys(stretch.name for stretch in stretches))
    if len(names) == 1:
        return [number % 2 for number in range(len(stretches))]
    return [names.index(stretch.name) % 2 for stretch in stretches]


def _threshold(distances_N: Tensor) -> float:
    """The distance of a copy, by those of audio that copies nothing; silence has infinite ones."""
    audible_N = distances_N[torch.isfinite(distances_N)]
    return WITH_NEIGHBOUR * float(audible_N.quantile(NEAREST_SHARE))


def _confirmed(known: _Known, windows: _Windows, found: _Found, threshold: float) -> Tensor:
    """Which windows [N] are copies: very near, or near as the neighbour is at the moment that follows.

    A training recording may repeat itself, so that the neighbour's own nearest moment lies elsewhere.
    """
    near_N = found.distance < threshold
    copied_N = found.distance < threshold * ALONE / WITH_NEIGHBOUR
    for direction in (1, -1):
        (own_N,) = torch.nonzero(near_N, as_tuple=True)
        own_N = own_N[(own_N + direction >= 0) & (own_N + direction < len(windows))]
        if not len(own_N):
            continue
        next_N = own_N + direction
        times_N = found.time[own_N] + direction * STEP_SECONDS
        follows_N = known.at(windows.levels_NSM[next_N], found.file[own_N], times_N) < threshold
        copied_N[own_N[follows_N]] = True
        copied_N[next_N[follows_N]] = True
    return copied_N


def _longest_run(flags_N: Tensor) -> int:
    longest = run = 0
    for flag in flags_N.tolist():
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def _verdict(copied: int, total: int, calibration: Calibration | None) -> str:
    """Copies are found where there are clearly more than the false-positive rate explains."""
    if calibration is None:
        return UNJUDGED
    if not copied:
        return NO_COPIES
    mistaken = calibration.false_positive_rate * calibration.windows
    chance = (mistaken + 1) / (calibration.windows + 1)
    return COPIES if _binomial_tail(copied, total, chance) < UNLIKELY else NO_COPIES


def _binomial_tail(least: int, trials: int, chance: float) -> float:
    """P(X ≥ least) of `trials` independent trials, 0 < chance < 1."""
    if chance >= 1.0:
        return 1.0
    hits = torch.arange(least, trials + 1, dtype=torch.float64)
    count = torch.tensor(float(trials), dtype=torch.float64)
    terms = (
        torch.lgamma(count + 1)
        - torch.lgamma(hits + 1)
        - torch.lgamma(count - hits + 1)
        + hits * math.log(chance)
        + (count - hits) * math.log1p(-chance)
    )
    return float(terms.logsumexp(0).exp())
