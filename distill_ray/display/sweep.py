"""What has become of a search and its trials so far; standard library only.

`leaderboard.py` draws it, `sweep_lines.py` puts its changes into words.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from distill_ray.events.records import CandidateRow, Event, SweepCompleteEvent, SweepStarted, TrialUpdate

RUNNING = ("running", "retrying")
ENDED = ("completed", "collapsed", "pruned", "failed", "cancelled")
_CANNOT_WIN = ("collapsed", "pruned", "failed", "cancelled")


@dataclass(kw_only=True)
class SweepHistory:
    """The search so far; `trials` has the newest update of each, in the order of their first. `began`, by
    `clock`: when its first event came.
    """

    started: SweepStarted | None = None
    complete: SweepCompleteEvent | None = None
    trials: dict[str, TrialUpdate] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def add(self, event: Event) -> None:
        """Take an event in; those of other work change nothing."""
        if isinstance(event, SweepStarted):
            self.started, self.complete = event, None
            self.trials.clear()
            self.began = self.clock()
        elif isinstance(event, TrialUpdate):
            self.trials[event.trial] = event
        elif isinstance(event, SweepCompleteEvent):
            self.complete = event
            for row in reversed(event.candidates):  # the best of each trial last
                if row.trial in self.trials and (row.chosen or row.trial != event.chosen):
                    self._take_row(row)

    def _take_row(self, row: CandidateRow) -> None:
        self.trials[row.trial] = replace(
            self.trials[row.trial],
            verdict=row.reason,
            eligible=row.eligible,
            objective=row.objective,
            decoded=row.decoded,
            generated=row.generated,
        )

    def count(self, states: Sequence[str]) -> int:
        """How many trials are in one of `states`."""
        return sum(trial.state in states for trial in self.trials.values())

    @property
    def expected(self) -> int:
        """How many trials there are to be, as far as is known now; later rounds add to it."""
        first = self.started.trials if self.started else 0
        first = next((trial.trials for trial in self.trials.values() if trial.trials is not None), first)
        return max(len(self.trials), first)

    def left_s(self) -> float | None:
        """About how many seconds of the search are left; None where nothing tells yet.

        What is left of its budget, else what the trials that are to come take if they take as long as those
        before them.
        """
        if self.started is None or self.complete is not None:
            return None
        if self.started.left_s is not None:
            return max(0.0, self.began + self.started.left_s - self.clock())
        ended = [trial.elapsed_s for trial in self.trials.values() if trial.state == "completed"]
        running = [trial for trial in self.trials.values() if trial.state in RUNNING]
        took = [seconds for seconds in ended if seconds > 0.0]
        took += [trial.elapsed_s + trial.eta_s for trial in running if trial.eta_s is not None]
        if not took:
            return None
        mean = math.fsum(took) / len(took)
        finals = sum(trial.round == "final" for trial in self.trials.values())
        waiting = self.expected - self.count(ENDED) - len(running) + max(0, self.started.finalists - finals)
        left = [max(0.0, mean - each.elapsed_s) if each.eta_s is None else each.eta_s for each in running]
        return (waiting * mean + math.fsum(left)) / max(1, self.started.concurrent)

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
        """Best objective first; then those without one; last those that have ended and cannot win."""
        return sorted(self.trials.values(), key=_rank)

    def shown(self, rows: int) -> list[TrialUpdate]:
        """Those that `rows` lines have room for, ranked: the running ones above all, then the best."""
        ranked = self.ranked()
        running = [trial for trial in ranked if trial.state in RUNNING]
        others = [trial for trial in ranked if trial.state not in RUNNING]
        chosen = {trial.trial for trial in [*running, *others][: max(1, rows)]}
        return [trial for trial in ranked if trial.trial in chosen]


def _rank(trial: TrialUpdate) -> tuple[int, float]:
    if trial.state in _CANNOT_WIN or not trial.eligible:
        return (2, _or_last(trial.objective))
    if trial.objective is None:
        return (1, 0.0 if trial.state in RUNNING else 1.0)
    return (0, _or_last(trial.objective))


def _or_last(objective: float | None) -> float:
    return math.inf if objective is None or math.isnan(objective) else objective
