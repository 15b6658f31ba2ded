"""A set of windows against the halves of the training audio, in one space: distances, floors, intervals.

Everything is compared with one half of the training audio at a time and averaged over both, so that the
floor (the other half) and a generated set are treated alike. A set of more windows than are to be compared
is drawn from several times, by as many neighbouring windows as the sounds have that are judged: neighbours
are alike, so that many of few moments lie farther off than few of many.

Legend: N windows, K components.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill_ray.evaluate.distance import (
    Gaussian,
    coverage_and_density,
    frechet_distance,
    kernel_distance,
    kernel_width,
)
from distill_ray.evaluate.judgement import Interval

Coordinates = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

DRAWS = 8
"""How often a set is drawn from where it has more windows than are compared."""
BOOTSTRAPS = 40
_LEAST_SOUNDS = 6
"""With fewer sounds, a bootstrap draws their blocks."""
MOST_WINDOWS = 1000
"""Compared at once; more are drawn from."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much of a set is drawn: `count` windows in runs of up to `run` neighbouring ones."""

    count: int
    run: int


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The coordinates of a set of windows, and which of them belong together."""

    points_NK: Coordinates
    block_N: Index
    sound_N: Index

    def __len__(self) -> int:
        return len(self.points_NK)

    def __getitem__(self, chosen_N: npt.NDArray[np.bool_]) -> Cloud:
        return Cloud(
            points_NK=self.points_NK[chosen_N], block_N=self.block_N[chosen_N], sound_N=self.sound_N[chosen_N]
        )

    @property
    def run(self) -> int:
        """Windows that usually come from one sound."""
        return max(1, round(len(self) / len(np.unique(self.sound_N))))

    def draw(self, amount: Amount, random: np.random.Generator) -> Coordinates:
        """`amount` of windows, or all: runs of a block in random order, the last one cut off."""
        if amount.count >= len(self):
            return self.points_NK
        _, first_N, block_N = np.unique(self.block_N, return_index=True, return_inverse=True)
        place_N = np.arange(len(self)) - first_N[block_N]
        runs, run_N = np.unique(np.stack((block_N, place_N // amount.run)), axis=1, return_inverse=True)
        rank_N = random.permutation(runs.shape[1])[run_N]
        return self.points_NK[np.argsort(rank_N, kind="stable")[: amount.count]]

    def resample(self, random: np.random.Generator) -> Cloud:
        """A bootstrap sample: sounds, or blocks where there are few sounds, drawn with replacement."""
        unit_N = self.sound_N if len(np.unique(self.sound_N)) >= _LEAST_SOUNDS else self.block_N
        units = np.unique(unit_N)
        places = [np.flatnonzero(unit_N == unit) for unit in random.choice(units, len(units))]
        copy_N = np.repeat(np.arange(len(places)), [len(place) for place in places])
        return Cloud(points_NK=self.points_NK[np.concatenate(places)], block_N=copy_N, sound_N=copy_N)


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What `Measures` holds beside the Fréchet distance."""

    kernel: float
    coverage: float
    density: float


class Halves:
    """The training audio in interleaved halves: its blocks by turns."""

    def __init__(self, training: Cloud) -> None:
        even_N = training.block_N % 2 == 0
        self._sides = (training[even_N], training[~even_N])
        self._gaussians = tuple(Gaussian.fit(side.points_NK) for side in self._sides)
        self._width = kernel_width(training.points_NK)

    @property
    def windows(self) -> int:
        """Of the smaller half."""
        return min(len(side) for side in self._sides)

    def amount(self, cloud: Cloud) -> Amount:
        """How many windows of `cloud` can be compared at once."""
        return Amount(count=min(len(cloud), MOST_WINDOWS, self.windows), run=cloud.run)

    def frechet(self, cloud: Cloud, amount: Amount, random: np.random.Generator) -> float:
        """Fréchet distance of `amount` windows of `cloud`: the mean over draws and halves."""
        draws = DRAWS if len(cloud) > amount.count else 1
        return float(np.mean([self._both(cloud.draw(amount, random)) for _ in range(draws)]))

    def floors(self, amount: Amount, random: np.random.Generator) -> Samples:
        """Fréchet distances of `amount` windows of one half to the other, for `DRAWS` draws of either."""
        drawn = [(side, self._sides[1 - side].draw(amount, random)) for side in (0, 1) for _ in range(DRAWS)]
        return np.array([self._one(points_NK, side) for side, points_NK in drawn])

    def bootstrap(self, cloud: Cloud, amount: Amount, random: np.random.Generator) -> Samples:
        """Fréchet distances of `amount` windows of `BOOTSTRAPS` bootstrap samples of `cloud`."""
        return np.array([self._both(cloud.resample(random).draw(amount, random)) for _ in range(BOOTSTRAPS)])

    def likeness(self, cloud: Cloud | None, amount: Amount, random: np.random.Generator) -> Likeness:
        """The other measures of `amount` windows of `cloud`, or of each half against the other for None."""
        found = []
        for side in (0, 1) * (DRAWS // 2):
            points_NK = (cloud or self._sides[1 - side]).draw(amount, random)
            reference_NK = self._sides[side].draw(dataclasses.replace(amount, count=len(points_NK)), random)
            spread = coverage_and_density(points_NK, reference_NK)
            kernel = kernel_distance(points_NK, reference_NK, self._width)
            found.append((kernel, spread.coverage, spread.density))
        kernel, coverage, density = np.mean(found, axis=0).tolist()
        return Likeness(kernel=kernel, coverage=coverage, density=density)

    def _both(self, points_NK: Coordinates) -> float:
        return (self._one(points_NK, 0) + self._one(points_NK, 1)) / 2

    def _one(self, points_NK: Coordinates, side: int) -> float:
        return frechet_distance(self._gaussians[side], Gaussian.fit(points_NK))


def interval(value: float, samples: Samples) -> Interval:
    """95 % around `value`, from bootstrap samples of it.

    Only their spread counts: with the same windows several times in them they lie higher.
    """
    low, high = (np.percentile(samples, (2.5, 97.5)) - samples.mean()).tolist()
    return Interval(low=max(0.0, value + low), high=value + high)
