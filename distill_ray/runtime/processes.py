"""The processes of a private Ray, found by the environment that they were started with (Linux /proc).

Ray's workers rename themselves, change their parent and their process group; the path of their session's own
token file in their environment stays. `ray_session.py` uses it to leave nothing behind.

Run as a program, this file is the guardian that `guarded` starts: it needs the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Within, should this process be killed, another one ends the processes of `folder` and removes it.

    Ray itself leaves two agents, which for a minute try to report that their server is gone.
    """
    guardian = [sys.executable, "-I", "-S", __file__, str(folder)]
    quiet = subprocess.DEVNULL
    # In a session of its own, what is sent to this one's process group does not reach it.
    with subprocess.Popen(
        guardian, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
    ):
        yield


def _guard(folder: Path) -> None:
    sys.stdin.read()  # ends when the process that holds the other end does, whatever ends that one
    end_processes(folder, patience_s=1.0)
    shutil.rmtree(folder, ignore_errors=True)


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
