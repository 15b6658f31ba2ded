"""The processes of a private Ray, found by the environment that they were started with (Linux /proc).

Ray's workers rename themselves, change their parent and their process group; the path of their session's own
token file in their environment stays. `session.py` uses it to leave nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_PROC = Path("/proc")


def processes_of(folder: Path) -> list[int]:
    """Ids of the living processes, this one aside, that were started with `folder` in their environment."""
    marker = os.fsencode(folder)
    found = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if marker in (entry / "environ").read_bytes() and not _is_zombie(entry):
                found.append(int(entry.name))
    return sorted(found)


def end_processes(folder: Path, *, patience_s: float) -> list[int]:
    """Wait `patience_s` for the processes of `folder` to end by themselves, then kill them.

    Returns the ids of those that are still there afterwards (none, unless the kernel holds them).
    """
    deadline = time.monotonic() + patience_s
    killed = False
    while left := processes_of(folder):
        if time.monotonic() > deadline:
            if killed:
                return left
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed, deadline = True, time.monotonic() + 5.0
        time.sleep(0.05)
    return []


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
