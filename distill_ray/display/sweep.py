"""What has become of a search and its trials so far; standard library only.

`leaderboard.py` draws it, `sweep_lines.py` puts its changes into words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from distill_ray.events.records import Event, SweepCompleteEvent, SweepStarted, TrialUpdate

RUNNING = ("running", "retrying")
ENDED = ("completed", "collapsed", "pruned", "failed", "cancelled")
_CANNOT_WIN = ("collapsed", "pruned", "failed", "cancelled")


@dataclass(kw_only=True)
class SweepHistory:
    """The search so far; `trials` has the newest update of each, in the order of their first."""

    started: SweepStarted | None = None
    complete: SweepCompleteEvent | None = None
    trials: dict[str, TrialUpdate] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take an event in; those of other work change nothing."""
        if isinstance(event, SweepStarted):
            self.started, self.complete = event, None
            self.trials.clear()
        elif isinstance(event, TrialUpdate):
            self.trials[event.trial] = event
        elif isinstance(event, SweepCompleteEvent):
            self.complete = event

    def count(self, states: Sequence[str]) -> int:
        """How many trials are in one of `states`."""
        return sum(trial.state in states for trial in self.trials.values())

    @property
    def expected(self) -> int:
        """How many trials there are to be, as far as is known now; later rounds add to it."""
        first = self.started.trials if self.started else 0
        return max(len(self.trials), first)

    @property
    def unit(self) -> str:
        """What is counted of trials: without a GPU their wall seconds, as GPU seconds would all be 0."""
        on_cpu = self.started is not None and not self.started.gpus_per_trial
        return "trial s" if on_cpu else "GPU s"

    def spent_by(self, trial: TrialUpdate) -> float:
        """Seconds of a trial so far, in `unit`."""
        return trial.gpu_seconds if self.unit == "GPU s" else trial.elapsed_s

    @property
    def spent(self) -> float:
        """Seconds of all trials so far, in `unit`."""
        if self.complete is not None and self.unit == "GPU s":
            return self.complete.gpu_seconds
        return math.fsum(map(self.spent_by, self.trials.values()))

    def ranked(self) -> list[TrialUpdate]:
        """Best objective first; then those without one; last those that ended and cannot win."""
        return sorted(self.trials.values(), key=_rank)

    def shown(self, rows: int) -> list[TrialUpdate]:
        """Those that `rows` lines have room for, ranked: the running ones above all, then the best."""
        ranked = self.ranked()
        running = [trial for trial in ranked if trial.state in RUNNING]
        others = [trial for trial in ranked if trial.state not in RUNNING]
        chosen = {trial.trial for trial in [*running, *others][: max(1, rows)]}
        return [trial for trial in ranked if trial.trial in chosen]


def _rank(trial: TrialUpdate) -> tuple[int, float]:
    if trial.state in _CANNOT_WIN:
        return (2, _or_last(trial.objective))
    if trial.objective is None:
        return (1, 0.0 if trial.state in RUNNING else 1.0)
    return (0, _or_last(trial.objective))


def _or_last(objective: float | None) -> float:
    return math.inf if objective is None or math.isnan(objective) else objective
