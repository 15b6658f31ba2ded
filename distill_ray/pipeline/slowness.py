"""How much longer this program's work takes because others want the same cores; standard library only."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_LEAST_S = 1.0
"""Of work, before it says anything."""
_LATELY_S, _EVERY_S = 20.0, 3.0
"""What is of late, and how often the accounts are read."""


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Seconds in which this process's living threads had a core, and in which they waited for one."""

    at: float
    ran_s: float
    waited_s: float


@dataclass(kw_only=True)
class Slowness:
    """By how much the time in which this process's threads wanted a core exceeds that in which they had one,
    of late: 1 where they never waited, from Linux's accounts; 1 where there are none.

    It hears of events, for a reading now and then. `tasks`: where the accounts are.
    """

    tasks: Path = Path("/proc/self/task")
    clock: Callable[[], float] = time.monotonic
    _readings: deque[_Reading] = field(default_factory=lambda: deque(maxlen=64), init=False)

    def hear(self, _event: object) -> None:
        now = self.clock()
        if not self._readings or now - self._readings[-1].at >= _EVERY_S:
            self._readings.append(self._read(now))

    def __call__(self) -> float:
        reading = self._read(self.clock())
        for before in reversed(self._readings):
            ran = reading.ran_s - before.ran_s
            if reading.at - before.at >= _LATELY_S and ran > _LEAST_S:
                return max(1.0, 1.0 + (reading.waited_s - before.waited_s) / ran)
        if reading.ran_s <= _LEAST_S:
            return 1.0
        return 1.0 + reading.waited_s / reading.ran_s

    def _read(self, now: float) -> _Reading:
        ran, waited = 0, 0
        for path in self.tasks.glob("*/schedstat"):
            try:
                on_core, in_queue = map(int, path.read_text().split()[:2])
            except (OSError, ValueError):  # it has just ended, or the kernel counts nothing
                continue
            ran, waited = ran + on_core, waited + in_queue
        return _Reading(at=now, ran_s=ran / 1e9, waited_s=waited / 1e9)
