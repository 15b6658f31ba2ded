"""How much longer this program's work takes because others want the same cores; standard library only."""

from __future__ import annotations

from pathlib import Path

_LEAST_S = 1.0
"""Of work, before it says anything."""


def slowness(tasks: Path = Path("/proc/self/task")) -> float:
    """By how much the time in which this process's threads wanted a core exceeds that in which they had one,
    1 where they never waited, from Linux's accounts of its living threads; 1 where there are none.
    """
    ran, waited = 0, 0
    for path in tasks.glob("*/schedstat"):
        try:
            on_core, in_queue = map(int, path.read_text().split()[:2])
        except (OSError, ValueError):  # it has just ended, or the kernel counts nothing
            continue
        ran, waited = ran + on_core, waited + in_queue
    return (ran + waited) / ran if ran > _LEAST_S * 1e9 else 1.0
