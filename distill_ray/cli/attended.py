"""Who watches a command: a person at this terminal, or the client that submitted it as a job.

Every command that can be submitted runs its work within `attended()`. At a terminal that draws; in a job
(`DISTILL_RAY_EVENTS=1`, set by `distill-ray submit`) each event becomes a line of the job's log, which the
client draws with the same `Display`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from distill_ray.cli.recordings import show_findings
from distill_ray.display.history import History
from distill_ray.events import lines as job_lines
from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import (
    Event,
    Notice,
    PipelinePlan,
    PriorStepMetrics,
    RunStarted,
    StageProgress,
    SweepStarted,
    TrialUpdate,
    VQStepMetrics,
    to_record,
)

if TYPE_CHECKING:
    from distill_ray.display import Display, Listeners

_PAUSE_S = 0.25  # between two lines about the same thing: a reader sees no more, and logs are kept for ever


class Attended:
    """A listener and a context manager: `viewer` draws or prints, `logs` write into the run's folder.

    `display` is the one that draws, None in a job.
    """

    def __init__(self, display: Display | None, viewer: Listeners, logs: Listeners) -> None:
        self.display = display
        self._viewer = viewer
        self._history = History() if display is None else display.history
        self._logs = logs
        self._found: list[str] = []

    def __enter__(self) -> Attended:
        self._viewer.__enter__()
        self._logs.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logs.__exit__(kind, error, trace)
        self._viewer.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        self._view(_located(event))
        self._logs(event)
        if self.display is None:
            self._history.add(event)

    def final_report(self, paths: Mapping[str, object]) -> None:
        """The run's report and where its results are; a path is None where there is no such result."""
        paths = {name: path for name, path in paths.items() if path is not None}
        if self.display is not None:
            self.display.final_report(paths)
        else:
            job_lines.say("report", paths)

    @property
    def warnings(self) -> list[str]:
        """All that was said as a warning, each once."""
        return list(dict.fromkeys([*self._found, *self._history.warnings]))

    def _view(self, event: Event) -> None:
        if isinstance(event, RecordingsFound):
            self._found += map(": ".join, event.rows)
            if self.display is not None:
                show_findings(self.display, event.used, event.rows)
                return
        self._viewer(event)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table for a person; a job's client gets the result document instead."""
        if self.display is not None:
            self.display.table(title, columns, rows)

    def warn(self, message: str) -> None:
        """One sentence of warning."""
        if self.display is not None:
            self.display.warn(message)
        else:
            self(Notice(level="warning", message=message))


def attended() -> Attended:
    """The display or the job's lines, with the event log and the scalars of the run's folder."""
    from distill_ray.display import Display, EventLog, Listeners, ScalarLog

    if job_lines.wanted():
        return Attended(None, Listeners(EventLines()), Listeners(EventLog(), ScalarLog()))
    display = Display()
    return Attended(display, Listeners(display), Listeners(EventLog(), ScalarLog()))


def _located(event: Event) -> Event:
    """`event` with the URI of its run in the place of the local folder that stands for it."""
    if isinstance(event, RunStarted | SweepStarted | PipelinePlan) and event.uri:
        return dataclasses.replace(event, output_dir=event.uri, uri="")
    return event


class EventLines:
    """Prints events as lines; of steps, progress and trial updates only as many as can be watched."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[tuple[Any, ...], float] = {}

    def __call__(self, event: Event) -> None:
        now, topic = self._clock(), _topic(event)
        if topic is not None:
            if now - self._said.get(topic, -_PAUSE_S) < _PAUSE_S:
                return
            self._said[topic] = now
        job_lines.say("event", to_record(event))


def _topic(event: Event) -> tuple[Any, ...] | None:
    """What an event is one of many about; None for one that must not be left out."""
    if isinstance(event, VQStepMetrics | PriorStepMetrics):
        return (type(event),)
    if isinstance(event, StageProgress) and event.done < event.total:
        return (event.stage,)
    if isinstance(event, TrialUpdate) and event.state == "running":
        return (event.trial, event.epoch)
    return None
