"""How many steps each trial of a search with a time budget makes, so that it ends in its time.

Trials are compared at equal steps, also where devices differ: a share of the time for each would give those
that run alone more of them. The first trials tell their pace and how long they took to begin; the slowest of
them decides. What a search has settled on is kept in its folder (`rounds.json`) and holds when it is resumed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import CheckpointError
from distill_ray.events.records import Notice, PriorEpochMetrics, PriorStepMetrics
from distill_ray.jsonable import parse_json
from distill_ray.regular_file import read_regular
from distill_ray.report.numbers import count, duration
from distill_ray.runs.run_folder import ROUNDS_FILE
from distill_ray.storage.atomic import atomic_file
from distill_ray.tune.space import first_round_size, waves

CODEC_SHARE, PRIOR_SHARE = 0.6, 0.25
"""Of a trial's time with objective generation; the rest is for its sounds and the judge."""
LEAST_EPOCHS = 2
"""Of a trial that may be compared: after one, codebooks have hardly settled."""
_OF_PRIORS = (PriorStepMetrics.__name__, PriorEpochMetrics.__name__)
_LEAST_SECONDS, _LEAST_STEPS = 2.0, 3  # of a trial, before its pace is believed
_SILENT_SECONDS = 10.0
"""A trial that has said nothing for so long waits to hear: it is told a number by what is known of it."""
_QUICK = 1e-3
"""Seconds a step where nothing is known of a pace: too many steps are corrected, too few are over."""
_ENDING = 0.06  # share of a trial's time that validation and its last checkpoint take
_NEWS = 0.03  # a change of the number of steps that is worth saying
_LATE = 0.1  # share of the time by which the search may take longer for its finalists
_AHEAD = 0.1  # share of its steps that the fastest trial makes before it hears a new number
_SETTLED_AT = 0.8  # of its steps: a trial that has come so far hears no other number


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was decided: `steps` of each trial, and how many `trials` the first round has."""

    steps: int
    trials: int


@dataclass(kw_only=True)
class _Pace:
    """A trial's first and newest moment: (step, seconds)."""

    first: tuple[int, float]
    newest: tuple[int, float]

    @property
    def is_known(self) -> bool:
        steps, seconds = self.newest[0] - self.first[0], self.newest[1] - self.first[1]
        return steps >= _LEAST_STEPS and seconds >= _LEAST_SECONDS

    @property
    def seconds_per_step(self) -> float:
        if not self.is_known:
            return _QUICK
        return (self.newest[1] - self.first[1]) / (self.newest[0] - self.first[0])


@dataclass(kw_only=True)
class StepBudget:
    """Decides while the first trials run. `ends_at` is when the trials shall be done, by `clock`."""

    sweep: SweepConfig
    concurrent: int
    ends_at: float
    settled: Settled | None = None
    clock: Callable[[], float] = time.monotonic
    steps_per_epoch: int = 0
    _began: float = field(default=0.0, init=False)
    _said: Settled | None = field(default=None, init=False)
    _paces: dict[str, _Pace] = field(default_factory=dict, init=False)

    def begin(self) -> None:
        """The first trials are being started."""
        self._began = self.clock()

    def hear(self, trial: str, record: Mapping[str, Any]) -> None:
        """A moment of a trial's training; those of its short prior do not count."""
        step = None if record.get("event") in _OF_PRIORS else record.get("step")
        if self.settled is not None or not isinstance(step, int):
            return
        self.steps_per_epoch = record.get("steps_per_epoch", self.steps_per_epoch)
        now = (step, self.clock())
        self._paces.setdefault(trial, _Pace(first=now, newest=now)).newest = now

    def news(self, live: Collection[str], *, ended: int) -> Settled | None:
        """What is to be said to the trials, if that has changed. `live` are running, `ended` have ended."""
        if self.settled is not None:
            return self._say(self.settled)
        paces = [self._paces[trial] for trial in live if trial in self._paces]
        if self._said is not None:
            furthest = max((pace.newest[0] for pace in self._paces.values()), default=0)
            if ended or furthest >= _SETTLED_AT * self._said.steps:
                self.settled = self._said
                return None
        if not paces or len(paces) < len(live) or not all(map(self._can_go_on, paces)):
            return None
        found = self._found(paces)
        if self._said is None:
            for pace in paces:
                pace.first = pace.newest  # they have waited for this, which is none of their pace
        elif abs(found.steps / self._said.steps - 1.0) < _NEWS:
            return None
        return self._say(found)

    def _can_go_on(self, pace: _Pace) -> bool:
        waits = self._said is None and self.clock() - pace.newest[1] >= _SILENT_SECONDS
        return pace.is_known or waits

    def has_time_for(self, seconds: float) -> bool:
        """Whether trials that take so long may still begin."""
        return self.clock() + seconds <= self.ends_at + _LATE * (self.ends_at - self._began)

    def _say(self, found: Settled) -> Settled | None:
        changed = found != self._said
        self._said = found
        return found if changed else None

    def _found(self, paces: list[_Pace]) -> Settled:
        """As many trials as can be trained for `LEAST_EPOCHS` each, and what fits of them then."""
        trials = first_round_size(self.sweep)
        fewest = min(trials, max(2, self.concurrent))
        least = LEAST_EPOCHS * self.steps_per_epoch
        while trials > fewest and self._steps(paces, trials) < least:
            trials -= 1
        furthest = max(pace.newest[0] for pace in paces)  # who is beyond the number made more than others
        ahead = 1 if self._said is None else math.ceil(_AHEAD * furthest) + 1
        return Settled(steps=max(furthest + ahead, self._steps(paces, trials)), trials=trials)

    def _steps(self, paces: list[_Pace], trials: int) -> int:
        begun = waves(self.sweep, trials=trials, concurrent=self.concurrent)
        share = CODEC_SHARE if self.sweep.objective == "generation" else 1.0
        seconds = (self.ends_at - self._began) / begun * (1.0 - _ENDING) * share
        return math.floor(
            min(
                pace.first[0] + (seconds - (pace.first[1] - self._began)) / pace.seconds_per_step
                for pace in paces
            )
        )

    def notice(self) -> Notice | None:
        """What somebody should know of a budget that is small for its number of trials."""
        assert self.settled is not None, "the first trials run on"
        trials, steps = first_round_size(self.sweep), self.settled.steps
        fits = steps / max(1, self.steps_per_epoch)
        if self.settled.trials == trials and (fits >= LEAST_EPOCHS or not self.steps_per_epoch):
            return None
        short = f"the search's {duration(60.0 * (self.sweep.max_minutes or 0.0))} are too short for "
        wanted = f"{count(trials, 'trial')} of {LEAST_EPOCHS} epochs"
        made = f"{self.settled.trials} are trained, for {count(steps, 'step')} ({fits:.1f} epochs) each"
        advice = (
            "" if fits >= LEAST_EPOCHS else ", which hardly tells codecs apart: give it more --max-minutes"
        )
        return Notice(level="warning", message=f"{short}{wanted}: {made}{advice}")


def read_settled(folder: Path) -> Settled | None:
    """What the search in `folder` had settled on; None where it had not, or the file is damaged."""
    try:
        found = parse_json(read_regular(folder / ROUNDS_FILE))
        steps, trials = found["steps"], found["trials"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    valid = type(steps) is int and type(trials) is int and steps > 0 and trials > 0
    return Settled(steps=steps, trials=trials) if valid else None


def write_settled(folder: Path, settled: Settled) -> None:
    """Keep it for a resumed search. Raises CheckpointError."""
    with atomic_file(folder / ROUNDS_FILE, error=CheckpointError) as file:
        file.write(json.dumps({"steps": settled.steps, "trials": settled.trials}).encode() + b"\n")
