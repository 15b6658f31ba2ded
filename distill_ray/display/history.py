"""What the final report needs to remember of a run's events; standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill_ray.training.events import (
    Event,
    Notice,
    PriorEpochMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    TrainingCompleteEvent,
    VQEpochMetrics,
)
from distill_ray.vqvae.health import LevelHealth


@dataclass(kw_only=True)
class RunHistory:
    """The run so far; `warnings` in the order in which they first came up."""

    started: RunStarted | None = None
    epoch: VQEpochMetrics | PriorEpochMetrics | None = None
    complete: TrainingCompleteEvent | PriorTrainingCompleteEvent | None = None
    warnings: list[str] = field(default_factory=list)

    def add(self, event: Event) -> tuple[str, ...]:
        """Take an event in; returns the warnings that it brings and that are new."""
        if isinstance(event, RunStarted):
            self.started = event
        elif isinstance(event, VQEpochMetrics | PriorEpochMetrics):
            self.epoch = event
        elif isinstance(event, TrainingCompleteEvent | PriorTrainingCompleteEvent):
            self.complete = event
        fresh = tuple(text for text in dict.fromkeys(_warnings_of(event)) if text not in self.warnings)
        self.warnings += fresh
        return fresh

    @property
    def health(self) -> tuple[LevelHealth, ...]:
        """The health of the kept weights, or of the last epoch where the run did not end."""
        if isinstance(self.complete, TrainingCompleteEvent):
            return self.complete.codebook_health
        return self.epoch.codebook_health if isinstance(self.epoch, VQEpochMetrics) else ()


def _warnings_of(event: Event) -> tuple[str, ...]:
    if isinstance(event, Notice):
        return (event.message,) if event.level == "warning" else ()
    if isinstance(event, VQEpochMetrics):
        return event.utilization_warnings
    if isinstance(event, PriorEpochMetrics):
        return (event.memorization_message,) if event.is_memorizing else ()
    if isinstance(event, TrainingCompleteEvent):
        return event.warnings
    if isinstance(event, PriorTrainingCompleteEvent):
        return event.memorization_warnings
    return ()
