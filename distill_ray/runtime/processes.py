"""The processes of a private Ray, found by the environment that they were started with (Linux /proc).

Ray's workers rename themselves, change their parent and their process group; the path of their session's own
token file in their environment stays. `ray_session.py` uses it to leave nothing behind.

Run as a program, this file is the guardian that `guarded` starts: it needs the standard library only.
"""

from __future__ import annotations

import contextlib
import errno
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
    """Ids of the living processes of this user, this one aside, that were started with a variable that holds
    a path in `folder`.
    """
    found = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()) if _PROC.is_dir() else ()
    return sorted(pid for pid in found if pid != os.getpid() and _is_of(pid, folder))


def _is_of(pid: int, folder: Path) -> bool:
    marker = b"=" + os.fsencode(folder) + b"/"
    entry = _PROC / str(pid)
    with contextlib.suppress(OSError):  # gone meanwhile, or another user's
        environment = (entry / "environ").read_bytes()
        ours = entry.stat().st_uid == os.geteuid()
        return ours and marker in environment and not _is_zombie(entry)
    return False


def _kill(pid: int, folder: Path) -> None:
    """Kill a process of `folder`. Its id may have become another one's since it was found, so it is looked at
    once more through a descriptor, which stays that of one process.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS and _is_of(pid, folder):  # a kernel before 5.3
            os.kill(pid, signal.SIGKILL)
        return
    try:
        if _is_of(pid, folder):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)


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
                    _kill(pid, folder)
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
    with subprocess.Popen(  # noqa: S603 - this Python, this file and a folder of this process
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
