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
    """The run so far."""

    started: RunStarted | None = None
    epoch: VQEpochMetrics | PriorEpochMetrics | None = None
    complete: TrainingCompleteEvent | PriorTrainingCompleteEvent | None = None
    _said: list[str] = field(default_factory=list)

    def add(self, event: Event) -> tuple[str, ...]:
        """Take an event in; returns the warnings to show with it. A notice's is shown once."""
        if isinstance(event, RunStarted):
            self.started = event
        elif isinstance(event, VQEpochMetrics | PriorEpochMetrics):
            self.epoch = event
            warnings = _warnings_of(event)
            self._said += [f"epoch {event.epoch}: {text}" for text in warnings]
            return warnings
        elif isinstance(event, TrainingCompleteEvent | PriorTrainingCompleteEvent):
            self.complete = event
        elif isinstance(event, Notice) and event.level == "warning" and event.message not in self._said:
            self._said.append(event.message)
            return (event.message,)
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, those of the complete run (which knows of earlier, interrupted parts) last."""
        if isinstance(self.complete, TrainingCompleteEvent):
            final = self.complete.warnings
        elif isinstance(self.complete, PriorTrainingCompleteEvent):
            final = self.complete.memorization_warnings
        else:
            final = ()
        return (*(text for text in self._said if text not in final), *final)

    @property
    def health(self) -> tuple[LevelHealth, ...]:
        """The health at the end of the run, or of the last epoch where the run did not end."""
        if isinstance(self.complete, TrainingCompleteEvent):
            return self.complete.codebook_health
        return self.epoch.codebook_health if isinstance(self.epoch, VQEpochMetrics) else ()


def _warnings_of(event: VQEpochMetrics | PriorEpochMetrics) -> tuple[str, ...]:
    if isinstance(event, VQEpochMetrics):
        return event.utilization_warnings
    return (event.memorization_message,) if event.is_memorizing else ()
