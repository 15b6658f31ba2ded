"""Which generated seconds are copied from the training audio, from which file and time.

`moments.py` finds the nearest moment of every second. What counts as near is calibrated: the same search is
made for windows of recordings that copy nothing, which are the held-out ones or, where little is held out,
also training files against all other training files. The nearest hundredth of these has a distance; a copy
has at most half of it, or four fifths if its neighbour half a second on is as near to the moment half a
second on. What went through a codec is seldom so near. So copies are also windows, six or more in a row,
whose nearest moments follow one another as they do, all nearer than half of the audio that copies nothing is.

The false-positive rate is the share of these windows that would count as copies, each half of them judged by
a threshold from the other half. The verdict asks whether the copies found are more than that rate explains,
with one more mistake than was counted: few windows convict nobody.

Legend: N windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.errors import AudioError
from distill_ray.evaluate import fingerprint
from distill_ray.evaluate.judgement import Copies, NearestMoment
from distill_ray.evaluate.moments import (
    STEP_SECONDS,
    Found,
    KnownAudio,
    Progress,
    Sample,
    Windows,
    batches,
)
from distill_ray.evaluate.sound import Sound
from distill_ray.prior.memorization import COPIES

NEAREST_SHARE = 0.01
"""The share of audio that copies nothing whose distance copies are measured by."""
ALONE, WITH_NEIGHBOUR = 0.5, 0.8
"""Times that distance: what counts as a copy by itself, and with its neighbour."""
FOLLOWING = 6
"""Windows in a row whose nearest moments follow one another: 3.5 s of a recording."""
OFF_SECONDS = 0.06
"""By how much a moment may miss the one that follows: two semitones of speed are an eighth of a step."""
ENOUGH_WINDOWS = 240
"""Held-out windows that are enough for a calibration; fewer are joined by training files."""
UNLIKELY = 0.05
NO_COPIES, UNJUDGED = "none found", "cannot be judged"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Distances of audio that copies nothing: `threshold`, from which on down it could be a copy, and the
    median.
    """

    threshold: float
    median: float

    @classmethod
    def of(cls, distances_N: Tensor) -> Bounds:
        """By the distances of such audio; silence has infinite ones."""
        audible_N = distances_N[torch.isfinite(distances_N)]
        nearest = float(audible_N.quantile(NEAREST_SHARE))
        return cls(threshold=WITH_NEIGHBOUR * nearest, median=float(audible_N.median()))


@dataclass(frozen=True, kw_only=True)
class Calibration(Bounds):
    """What is near for audio that copies nothing.

    windows: how many the distances rest on; held_out: whether those are of held-out recordings alone;
    false_positive_rate: their share that would count as copies.
    """

    false_positive_rate: float
    windows: int
    held_out: bool


class CopyDetector:
    """The training audio as it is recognised, and what is near for audio that copies nothing."""

    def __init__(self, known: KnownAudio, calibration: Calibration | None) -> None:
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
        known = KnownAudio(device)
        own, others = Sample(device), Sample(device)
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
        for stretches in batches(sounds, self._known.device, tell):
            for windows, found in zip(stretches, self._known.each(stretches), strict=True):
                total += len(windows)
                if self.calibration:
                    is_copy_N = _copied(self._known, windows, found, self.calibration)
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

    def _moments(self, windows: Windows, found: Found) -> Iterator[NearestMoment]:
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


def _calibrate(known: KnownAudio, stretches: Sequence[Windows], *, held_out: bool) -> Calibration | None:
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
        bounds = Bounds.of(others if bool(torch.isfinite(others).any()) else distances)
        for stretch, part, half in zip(stretches, parts, halves, strict=True):
            if half == judged:
                mistaken += int(_copied(known, stretch, part, bounds).sum())
    windows, bounds = len(distances), Bounds.of(distances)
    return Calibration(
        threshold=bounds.threshold,
        median=bounds.median,
        false_positive_rate=mistaken / windows,
        windows=windows,
        held_out=held_out,
    )


def _halves(stretches: Sequence[Windows]) -> list[int]:
    """0 or 1 for each: whole recordings alternate, stretches where there is only one recording."""
    names = list(dict.fromkeys(stretch.name for stretch in stretches))
    if len(names) == 1:
        return [number % 2 for number in range(len(stretches))]
    return [names.index(stretch.name) % 2 for stretch in stretches]


def _copied(known: KnownAudio, windows: Windows, found: Found, bounds: Bounds) -> Tensor:
    """Which windows [N] are copies."""
    return _confirmed(known, windows, found, bounds.threshold) | _followed(found, bounds.median)


def _followed(found: Found, median: float) -> Tensor:
    """Which windows [N] are of rows whose nearest moments follow one another."""
    near_N = found.distance < median
    goes_on_N = near_N[1:] & near_N[:-1] & (found.file[1:] == found.file[:-1])
    goes_on_N &= (found.time.diff() - STEP_SECONDS).abs() <= OFF_SECONDS
    followed_N = torch.zeros_like(near_N)
    begin = 0
    for end, goes_on in enumerate([*goes_on_N.tolist(), False], 1):
        if not goes_on:
            followed_N[begin:end] = end - begin >= FOLLOWING
            begin = end
    return followed_N


def _confirmed(known: KnownAudio, windows: Windows, found: Found, threshold: float) -> Tensor:
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
