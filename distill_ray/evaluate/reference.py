"""Judge sounds against the training audio that they are to be like.

`Reference.fit` measures the training and the held-out audio once and can be saved; `Reference.judge` then
scores any set of sounds in a second or two. `judge` does both. `corpus_reference.py` makes the reference of
a corpus and keeps it.

The joined distance is that of all groups of short windows side by side, each with the same total variance;
where there are enough longer windows, the structure's distance is added, as if it were independent.

Legend: N windows, K components.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from distill_ray.errors import AudioError
from distill_ray.evaluate.comparison import Amount, Cloud, Halves, Samples, interval
from distill_ray.evaluate.judgement import (
    GROUPS,
    Floors,
    GroupScore,
    Interval,
    Judgement,
    Levels,
    Measures,
)
from distill_ray.evaluate.levels import LevelMeter
from distill_ray.evaluate.sound import Sound
from distill_ray.evaluate.space import Axes
from distill_ray.evaluate.windows import LONG, SHORT, Windows, measure

Progress = Callable[[int, str], None]
"""Told (sounds measured, name of the last one)."""

FEWEST_WINDOWS = 10
"""With fewer, nothing is compared."""
MANY_WINDOWS = 100
"""With fewer, the figures come with a warning."""
JOINED = "joined"
STRUCTURE = "structure"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A set of sounds: features of their windows (by "short" and "long"), levels, amount."""

    windows: Mapping[str, Windows]
    levels: Levels
    sounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Distances:
    """Fréchet distances of a group: the set's, of its bootstrap samples, of draws of the halves, held out."""

    amount: Amount
    value: float
    samples: Samples
    floors: Samples
    held_out: float | None

    @property
    def floor(self) -> float:
        return max(1e-12, float(self.floors.mean()))

    @property
    def ratio(self) -> float:
        return self.value / self.floor

    def ratio_interval(self, random: np.random.Generator) -> Interval:
        floors = random.choice(self.floors, (len(self.samples), len(self.floors))).mean(1)
        return interval(self.ratio, self.samples / np.maximum(floors, 1e-12))


class Reference:
    """The training and held-out audio as the judge knows it."""

    def __init__(self, training: Measured, held_out: Measured | None) -> None:
        self.training = training
        self.held_out = held_out
        used = [training.windows["short"]]
        if _smaller_half(training.windows["long"]) >= FEWEST_WINDOWS:
            used.append(training.windows["long"])
        self._axes = {
            name: Axes.fit(values_ND) for windows in used for name, values_ND in windows.features.items()
        }
        self._halves = {name: Halves(cloud) for name, cloud in self._clouds(training).items()}
        self._held_out = {} if held_out is None else self._clouds(held_out)

    @classmethod
    def fit(
        cls,
        training: Iterable[Sound],
        held_out: Iterable[Sound] = (),
        *,
        device: torch.device | str = "cpu",
        on_progress: Progress | None = None,
    ) -> Reference:
        """Measure the training audio and what was held out of it.

        Raises AudioError where the training audio is too short to be compared with itself.
        """
        trained = measured(training, device=device, on_progress=on_progress)
        if _smaller_half(trained.windows["short"]) < FEWEST_WINDOWS:
            raise AudioError(
                f"the training audio is too short to be compared with: {trained.seconds:.1f} s, of which "
                f"either half must have {FEWEST_WINDOWS} windows of {SHORT.seconds:g} s; about "
                f"{2 * FEWEST_WINDOWS * SHORT.step_seconds + 2 * SHORT.block_seconds:.0f} s are needed"
            )
        apart = measured(held_out, device=device, on_progress=on_progress)
        return cls(trained, apart if apart.sounds else None)

    def judge(
        self,
        sounds: Iterable[Sound],
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        on_progress: Progress | None = None,
    ) -> Judgement:
        """Score `sounds`; the same sounds and seed give the same figures.

        Raises AudioError where there are too few windows to compare.
        """
        given = measured(sounds, device=device, on_progress=on_progress)
        windows = len(given.windows["short"])
        if windows < FEWEST_WINDOWS:
            raise AudioError(
                f"there is too little sound to judge: {given.sounds} sounds of {given.seconds:.1f} s "
                f"together make {windows} windows of {SHORT.seconds:g} s; {FEWEST_WINDOWS} are the "
                "least, and from a few hundred on the figures can be trusted"
            )
        return self._judgement(given, seed)

    def _judgement(self, given: Measured, seed: int) -> Judgement:
        clouds = self._clouds(given)
        found = {name: self._distances(name, cloud, seed) for name, cloud in clouds.items()}
        joined = _added([found[name] for name in (JOINED, STRUCTURE) if name in found])
        return Judgement(
            windows=len(clouds[JOINED]),
            sounds=given.sounds,
            seconds=given.seconds,
            measures=self._measures(clouds[JOINED], joined.amount, joined.value, seed),
            ratio=joined.ratio,
            ratio_interval=joined.ratio_interval(_random(seed, "interval")),
            groups={name: _score(each, seed) for name, each in found.items() if name != JOINED},
            floors=Floors(
                halves=self._measures(None, joined.amount, joined.floor, seed),
                held_out=None
                if joined.held_out is None
                else self._measures(self._held_out[JOINED], joined.amount, joined.held_out, seed),
            ),
            levels=_beside(given.levels, self.training.levels),
            training_levels=self.training.levels,
            warnings=tuple(self._warnings(given, joined)),
        )

    def _clouds(self, of: Measured) -> dict[str, Cloud]:
        """Each group's coordinates and the joined ones, of kinds of windows that are not too few."""
        clouds = {}
        for windows in of.windows.values():
            if len(windows) < FEWEST_WINDOWS:
                continue
            for name in windows.features.keys() & self._axes.keys():
                points_NK = self._axes[name](windows.features[name])
                clouds[name] = Cloud(points_NK=points_NK, block_N=windows.block_N, sound_N=windows.sound_N)
        ordered = {name: clouds[name] for name in GROUPS if name in clouds}
        short = [cloud for name, cloud in ordered.items() if name != STRUCTURE]
        if not short:
            return {}
        points_NK = np.concatenate([cloud.points_NK for cloud in short], axis=1)
        return {JOINED: dataclasses.replace(short[0], points_NK=points_NK), **ordered}

    def _distances(self, name: str, cloud: Cloud, seed: int) -> _Distances:
        halves, random = self._halves[name], _random(seed, name)
        amount = halves.amount(cloud)
        floors = halves.floors(amount, random)
        return _Distances(
            amount=amount,
            value=halves.frechet(cloud, amount, random),
            samples=halves.bootstrap(cloud, amount, random),
            floors=floors,
            held_out=self._held_out_distance(name, amount, float(floors.mean()), random),
        )

    def _held_out_distance(
        self, name: str, amount: Amount, floor: float, random: np.random.Generator
    ) -> float | None:
        """As it would be in `amount` windows: with fewer, less by what the halves gain with fewer."""
        cloud, halves = self._held_out.get(name), self._halves[name]
        if cloud is None:
            return None
        fewer = dataclasses.replace(amount, count=min(amount.count, len(cloud)))
        distance = halves.frechet(cloud, fewer, random)
        gain = float(halves.floors(fewer, random).mean()) - floor if fewer != amount else 0.0
        return max(0.0, distance - gain)

    def _measures(self, cloud: Cloud | None, amount: Amount, frechet: float, seed: int) -> Measures:
        if cloud is not None:
            amount = dataclasses.replace(amount, count=min(amount.count, len(cloud)))
        likeness = self._halves[JOINED].likeness(cloud, amount, _random(seed, "likeness"))
        return Measures(windows=amount.count, frechet=frechet, **dataclasses.asdict(likeness))

    def _warnings(self, given: Measured, joined: _Distances) -> Iterator[str]:
        if given.levels.silence_share == 1.0:
            yield "all of it is silent"
        if joined.amount.count < MANY_WINDOWS:
            yield (
                f"only {joined.amount.count} windows of {SHORT.seconds:g} s could be compared at once "
                f"(judged: {len(given.windows['short'])}, half of the training audio: "
                f"{self._halves[JOINED].windows}); with fewer than {MANY_WINDOWS} the figures are uncertain"
            )
        if JOINED not in self._held_out:
            yield "nothing, or too little, is held out: there is no floor of new real audio to compare with"
        elif len(self._held_out[JOINED]) < joined.amount.count:
            yield (
                f"the held-out audio has {len(self._held_out[JOINED])} windows, fewer than the "
                f"{joined.amount.count} that are compared: its floor is less certain"
            )
        if STRUCTURE not in self._halves:
            yield f"the training audio has too few recordings of {LONG.seconds:g} s to judge structure by"
        elif len(given.windows["long"]) < FEWEST_WINDOWS:
            yield (
                f"{len(given.windows['long'])} windows of {LONG.seconds:g} s are too few to judge structure; "
                "make more or longer sounds"
            )


def judge(
    generated: Iterable[Sound],
    training: Iterable[Sound],
    held_out: Iterable[Sound] = (),
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> Judgement:
    """`generated` against `training` with both floors; to judge several sets keep a `Reference`."""
    reference = Reference.fit(training, held_out, device=device, on_progress=on_progress)
    return reference.judge(generated, seed=seed, device=device, on_progress=on_progress)


def measured(
    sounds: Iterable[Sound], *, device: torch.device | str = "cpu", on_progress: Progress | None = None
) -> Measured:
    """Features and levels of `sounds`, each taken once; sounds without a sample are left out."""
    meter, count, seconds = LevelMeter(), 0, 0.0

    def note(sound: Sound) -> None:
        nonlocal count, seconds
        meter.add(sound)
        count, seconds = count + 1, seconds + sound.audio_CT.shape[1] / sound.sample_rate
        if on_progress:
            on_progress(count, sound.name)

    windows = measure((sound for sound in sounds if sound.audio_CT.numel()), device=device, on_sound=note)
    return Measured(windows=windows, levels=meter.levels(), sounds=count, seconds=seconds)


def _beside(levels: Levels, corpus: Levels) -> Levels:
    """`levels` with their loudness compared with the corpus's."""
    if levels.loudness_lufs is None or corpus.loudness_lufs is None:
        return levels
    return dataclasses.replace(levels, loudness_to_corpus_db=levels.loudness_lufs - corpus.loudness_lufs)


def _smaller_half(windows: Windows) -> int:
    return int(np.bincount(windows.block_N % 2, minlength=2).min())


def _added(parts: list[_Distances]) -> _Distances:
    """The distance of independent parts: the sum of theirs."""
    held_out = [part.held_out for part in parts if part.held_out is not None]
    return _Distances(
        amount=parts[0].amount,
        value=sum(part.value for part in parts),
        samples=np.sum([part.samples for part in parts], axis=0),
        floors=np.sum([part.floors for part in parts], axis=0),
        held_out=sum(held_out) if len(held_out) == len(parts) else None,
    )


def _score(distances: _Distances, seed: int) -> GroupScore:
    return GroupScore(
        windows=distances.amount.count,
        frechet=distances.value,
        ratio=distances.ratio,
        ratio_interval=distances.ratio_interval(_random(seed, "interval")),
        halves=distances.floor,
        held_out=distances.held_out,
    )


def _random(seed: int, purpose: str) -> np.random.Generator:
    """A stream for each purpose, so that no measure changes with what else is measured."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])
