"""How much of a run is done: steps against epochs, minutes against a limit."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Epochs, minutes, steps: whichever ends first. 0 `max_steps` are still to be said, and use up nothing
    until then.
    """

    steps_per_epoch: int
    epochs: int | None
    max_minutes: float | None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        assert (self.epochs, self.max_minutes, self.max_steps) != (None, None, None)

    @property
    def steps(self) -> int | None:
        """After how many it is over; None where steps do not end it, or are still to be said."""
        ends = [self.max_steps] if self.max_steps else []
        if self.epochs is not None:
            ends.append(self.epochs * self.steps_per_epoch)
        return min(ends, default=None)

    def fraction(self, step: int, elapsed_s: float) -> float:
        """The share of the budget used after `step` steps and `elapsed_s` seconds; 1 or more: over."""
        by_steps = step / self.steps if self.steps is not None else 0.0
        by_time = elapsed_s / (60.0 * self.max_minutes) if self.max_minutes is not None else 0.0
        return max(by_steps, by_time)

    def __str__(self) -> str:
        """ "3 epochs", "1 minute" or "3 epochs or 2.5 minutes"."""
        minutes = self.max_minutes and float(f"{self.max_minutes:.3g}")
        limits = (("epoch", self.epochs), ("minute", minutes), ("step", self.max_steps))
        return " or ".join(
            f"{limit:g} {unit}{'' if limit == 1 else 's'}" for unit, limit in limits if limit is not None
        )

    def left_s(self, step: int, elapsed_s: float, seconds_per_step: float | None) -> float | None:
        """Seconds until the budget is over at this pace; None where the pace decides and is not known."""
        ends = []
        if self.max_minutes is not None:
            ends.append(60.0 * self.max_minutes - elapsed_s)
        if self.steps is not None and seconds_per_step is not None:
            ends.append((self.steps - step) * seconds_per_step)
        return max(0.0, min(ends)) if ends else None


class Clock:
    """Seconds of a run over all its resumed parts, and those of them that were training."""

    def __init__(self, elapsed_s: float = 0.0, training_s: float = 0.0) -> None:
        self._start = time.monotonic() - elapsed_s
        self._training_s = training_s
        self._since: float | None = None

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def training(self) -> float:
        """Seconds spent in training steps: validation and checkpoints left out."""
        running = time.monotonic() - self._since if self._since is not None else 0.0
        return self._training_s + running

    def resume(self) -> None:
        """Training goes on."""
        if self._since is None:
            self._since = time.monotonic()

    def pause(self) -> None:
        """Something else than training begins."""
        self._training_s = self.training()
        self._since = None
