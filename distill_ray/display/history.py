"""What the final report needs to remember of the events; standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from distill_ray.display.sweep import SweepHistory
from distill_ray.events.records import (
    Event,
    Notice,
    PriorEpochMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    TrainingCompleteEvent,
    VQEpochMetrics,
)
from distill_ray.vqvae.health import CodeAgreement, LevelHealth


@dataclass(kw_only=True)
class History:
    """All so far: a search, and training runs one after the other (`distill-ray run` has both)."""

    sweep: SweepHistory = field(default_factory=SweepHistory)
    runs: list[RunHistory] = field(default_factory=lambda: [RunHistory()])

    def add(self, event: Event) -> tuple[str, ...]:
        """Take an event in; returns the warnings to show with it."""
        self.sweep.add(event)
        if isinstance(event, RunStarted) and self.runs[-1].complete is not None:
            self.runs.append(RunHistory())
        return self.runs[-1].add(event)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings of all runs."""
        return tuple(text for run in self.runs for text in run.warnings)


@dataclass(kw_only=True)
class RunHistory:
    """One training run so far."""

    started: RunStarted | None = None
    epoch: VQEpochMetrics | PriorEpochMetrics | None = None
    complete: TrainingCompleteEvent | PriorTrainingCompleteEvent | None = None
    _notices: list[str] = field(default_factory=list)
    _of_epochs: list[str] = field(default_factory=list)

    def add(self, event: Event) -> tuple[str, ...]:
        """Take an event in; returns the warnings to show with it: a notice's once, an epoch's where the one
        before did not have it.
        """
        if isinstance(event, RunStarted):
            self.started = event
        elif isinstance(event, VQEpochMetrics | PriorEpochMetrics):
            warnings = _new_warnings(event, self.epoch)
            self.epoch = event
            every = event.utilization_warnings if isinstance(event, VQEpochMetrics) else warnings
            self._of_epochs += [f"epoch {event.epoch}: {text}" for text in every]
            return warnings
        elif isinstance(event, TrainingCompleteEvent | PriorTrainingCompleteEvent):
            self.complete = event
        elif isinstance(event, Notice) and event.level == "warning" and event.message not in self._notices:
            self._notices.append(event.message)
            return (event.message,)
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings; a complete run's own list, which knows of earlier parts, replaces the epochs'."""
        if isinstance(self.complete, TrainingCompleteEvent):
            final = self.complete.warnings
        elif isinstance(self.complete, PriorTrainingCompleteEvent):
            final = self.complete.memorization_warnings
        else:
            final = tuple(self._of_epochs)
        return (*(text for text in self._notices if text not in final), *final)

    @property
    def health(self) -> tuple[LevelHealth, ...]:
        """The health at the end of the run, or of the last epoch where the run did not end."""
        if isinstance(self.complete, TrainingCompleteEvent):
            return self.complete.codebook_health
        return self.epoch.codebook_health if isinstance(self.epoch, VQEpochMetrics) else ()

    @property
    def code_agreement(self) -> CodeAgreement | None:
        """How far codes agree under changes that nobody hears, as measured at the end of a codec's run."""
        return self.complete.code_agreement if isinstance(self.complete, TrainingCompleteEvent) else None


def _new_warnings(
    event: VQEpochMetrics | PriorEpochMetrics, before: VQEpochMetrics | PriorEpochMetrics | None
) -> tuple[str, ...]:
    if isinstance(event, VQEpochMetrics):
        said = before.utilization_warnings if isinstance(before, VQEpochMetrics) else ()
        known = set(map(kind_of, said))
        return tuple(text for text in event.utilization_warnings if kind_of(text) not in known)
    goes_on = isinstance(before, PriorEpochMetrics) and before.is_memorizing
    return (event.memorization_message,) if event.is_memorizing and not goes_on else ()


def kind_of(warning: str) -> str:
    """What warnings have in common that differ in their figures only."""
    return re.sub(r"\d+(\.\d+)?", "#", warning)
