"""events.jsonl → the trainings and the search that it tells of.

A resumed run goes on in the same file: epochs and steps that were lost between its checkpoint and its end
come twice, and the later ones count. A run that begins anew (`first_epoch` 1) takes the place of the earlier
one of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import (
    AudioSample,
    Event,
    Notice,
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    SweepCompleteEvent,
    SweepStarted,
    TrainingCompleteEvent,
    TrialUpdate,
    VQEpochMetrics,
    VQStepMetrics,
    from_record,
)
from distill_ray.jsonable import parse_json
from distill_ray.regular_file import read_regular
from distill_ray.report.facts import TrainingRun

LOG_NAME = "events.jsonl"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a log tells. `started` and `complete` are a search's; times are seconds
    since 1970; `damaged`: lines that are no events."""

    run: TrainingRun | None = None
    samples: tuple[AudioSample, ...] = ()
    started: SweepStarted | None = None
    trials: tuple[TrialUpdate, ...] = ()
    complete: SweepCompleteEvent | None = None
    warnings: tuple[str, ...] = ()
    first_time: float | None = None
    last_time: float | None = None
    damaged: int = 0


def read_log(folder: Path) -> Told:
    """The log of the run or search in `folder`; an empty one where there is none.

    Raises OSError where it cannot be read.
    """
    path = folder / LOG_NAME
    if not path.exists():
        return Told()
    return told(read_regular(path, _MOST_BYTES).decode("utf-8", "replace").split("\n"))


def told(lines: list[str]) -> Told:
    """What the lines of a log tell."""
    listener = _Reader()
    for line in filter(None, lines):
        try:
            record = parse_json(line)
            event = from_record(record)
        except (ValueError, AttributeError):
            listener.damaged += 1
            continue
        listener.take(event)
        if isinstance(record.get("time"), int | float):
            listener.times.append(float(record["time"]))
    return listener.result()


@dataclass(kw_only=True)
class _Reader:
    damaged: int = 0
    started: RunStarted | None = None
    epochs: dict[int, VQEpochMetrics | PriorEpochMetrics] = field(default_factory=dict)
    steps: dict[int, VQStepMetrics | PriorStepMetrics] = field(default_factory=dict)
    samples: dict[str, AudioSample] = field(default_factory=dict)
    complete: TrainingCompleteEvent | PriorTrainingCompleteEvent | None = None
    search: SweepStarted | None = None
    trials: dict[str, TrialUpdate] = field(default_factory=dict)
    ended: SweepCompleteEvent | None = None
    notices: dict[str, None] = field(default_factory=dict)
    since_end: dict[str, None] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def take(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._begin(event)
        elif isinstance(event, VQEpochMetrics | PriorEpochMetrics):
            self.epochs[event.epoch] = event
        elif isinstance(event, VQStepMetrics | PriorStepMetrics):
            self.steps[event.step] = event
        elif isinstance(event, AudioSample):
            self.samples[event.file] = event
        elif isinstance(event, TrainingCompleteEvent | PriorTrainingCompleteEvent):
            self.complete = event
            self.since_end = {}
        elif isinstance(event, SweepStarted):
            self.search, self.ended = event, None
        elif isinstance(event, TrialUpdate):
            self.trials[event.trial] = event
        elif isinstance(event, SweepCompleteEvent):
            self.ended = event
        elif isinstance(event, RecordingsFound):
            self._warn(*map(": ".join, event.rows))
        elif isinstance(event, Notice) and event.level == "warning":
            self._warn(event.message)

    def _warn(self, *messages: str) -> None:
        self.notices |= dict.fromkeys(messages)
        self.since_end |= dict.fromkeys(messages)

    def _begin(self, event: RunStarted) -> None:
        """What comes after the epoch from which the run goes on was lost, and is trained again."""
        self.started, self.complete = event, None
        kept = event.first_epoch - 1
        self.epochs = {number: each for number, each in self.epochs.items() if number <= kept}
        self.steps = {number: each for number, each in self.steps.items() if each.epoch <= kept}
        self.samples = {
            name: each for name, each in self.samples.items() if kept and (each.epoch or 0) <= kept
        }
        if not kept:
            self.notices = dict(self.since_end)  # preparations are spoken of before the start

    def result(self) -> Told:
        run = None
        if self.started is not None:
            run = TrainingRun(
                kind=self.started.kind,
                started=self.started,
                epochs=tuple(self.epochs[number] for number in sorted(self.epochs)),
                steps=tuple(self.steps[number] for number in sorted(self.steps)),
                complete=self.complete,
                warnings=tuple(self._warnings()),
            )
        return Told(
            run=run,
            samples=tuple(self.samples.values()),
            started=self.search,
            trials=tuple(self.trials.values()),
            complete=self.ended,
            warnings=tuple(self.notices),
            first_time=min(self.times, default=None),
            last_time=max(self.times, default=None),
            damaged=self.damaged,
        )

    def _warnings(self) -> Iterator[str]:
        """Those of a complete run are its own list, which knows of earlier parts."""
        done = self.complete
        if isinstance(done, TrainingCompleteEvent):
            own = done.warnings
        elif isinstance(done, PriorTrainingCompleteEvent):
            own = done.memorization_warnings
        else:
            own = tuple(
                f"epoch {each.epoch}: {text}"
                for each in self.epochs.values()
                if isinstance(each, VQEpochMetrics)
                for text in each.utilization_warnings
            )
        yield from (text for text in self.notices if text not in own)
        yield from own
