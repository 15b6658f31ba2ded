"""How a codec starts in closed form: told as it goes, cut short by a request to stop or a short budget."""

from __future__ import annotations

import math
import time

import torch

from distill_ray.errors import CancelledError
from distill_ray.events.records import Notice, StageProgress
from distill_ray.training.worker import Worker

STAGE = "start"
_MOST_SHARE, _LEAST_S = 0.25, 5.0
"""Of a budget of minutes, and seconds: what the start may take before it hurries."""
_EVERY_S = 0.5


class Start:
    """`VQVAE.initialise` asks it before each of its `parts` whether there is time to do it well.

    began: when the training was, by `time.monotonic`; max_minutes: its budget.
    """

    def __init__(self, worker: Worker, *, parts: int, began: float, max_minutes: float | None) -> None:
        self._worker = worker
        self._parts = parts
        limit_s = math.inf if max_minutes is None else max(_LEAST_S, _MOST_SHARE * 60.0 * max_minutes)
        self._ends_at = began + limit_s
        self._told_at = time.monotonic()
        self._done = self._in_full = 0
        self._has_told = self._is_late = self._is_stopped = False

    def __call__(self, what: str) -> bool:
        now = time.monotonic()
        if now - self._told_at >= _EVERY_S:
            self._tell(min(self._done, self._parts - 1), what)
            self._told_at = now
        self._done += 1
        self._is_stopped |= self._worker.stop_requested()
        self._is_late |= now >= self._ends_at
        goes_on = not (self._is_stopped or self._is_late)
        self._in_full += goes_on
        return goes_on

    def end(self) -> Notice | None:
        """What is to be said of a start that was cut short (collective).

        Raises CancelledError where a stop was asked for: codebooks that had no time are none to go on with.
        """
        stopped = torch.tensor([float(self._is_stopped)], device=self._worker.device)
        if float(self._worker.all_reduce(stopped)) > 0.0:
            raise CancelledError("stopped before the first step: there is nothing to keep")
        if self._has_told:
            self._tell_the_end()
        if not self._is_late:
            return None
        message = "the start of the codebooks was cut short, for lack of time: give it more --max-minutes"
        return Notice(level="warning", message=message)

    def _tell(self, done: int, what: str) -> None:
        self._has_told = True
        self._worker.emit(StageProgress(stage=STAGE, done=done, total=self._parts, note=f"parts: {what}"))

    def _tell_the_end(self) -> None:
        """The last of it has as many parts as were done in full: a display shows a stage until its end."""
        done = self._in_full if self._is_late else self._parts
        note = "parts, then cut short" if self._is_late else "parts"
        self._worker.emit(StageProgress(stage=STAGE, done=done, total=done, note=note))
