"""Threads of torch on a machine that others use too: how they wait, and how many there are.

torch's OpenMP threads spin while they wait for each other; where one of them has no core, the others burn
theirs until it gets one, and training falls to a fraction of its pace (tests/bench/shared_cpu.py). OpenMP
reads its variables once, when it is loaded with torch: so the package sets them when it is imported, if torch
is not there yet, and a session of Ray gives them to its workers. Training by
threads that sleep does not collapse beside other programs, though one thread was quicker for small batches;
their number follows from the machine alone, so that results do not depend on the load. Standard library only.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

SLEEP = {"OMP_WAIT_POLICY": "passive"}
"""GOMP_SPINCOUNT and KMP_BLOCKTIME, where the user has set them, count for more in the libraries that read
them."""
_THREADS = "OMP_NUM_THREADS"
_CHOSEN_BY_USER = (*SLEEP, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SAMPLES, _APART_S = 5, 0.02

_spins = False
_lowered_to: int | None = None


def prepare_environment(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make torch's threads sleep while they wait, and be no more than the quota of processor time allows.

    What the user has set stays. Without effect on a torch that is loaded already: see `free_threads`.
    """
    global _spins
    if "torch" in sys.modules:
        _spins = not any(name in environ for name in _CHOSEN_BY_USER)
        return
    for name, value in SLEEP.items():
        environ.setdefault(name, value)
    if usable_cores() < len(os.sched_getaffinity(0)):
        environ.setdefault(_THREADS, str(usable_cores()))


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: those of its affinity, or the quota of its control group, rounded up,
    where that is less.
    """
    cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(cgroup, membership))]))


def free_threads(wanted: int) -> int:
    """`wanted`, or fewer where torch's threads spin (it was loaded first) and other programs hold cores."""
    return min(wanted, max(1, (os.cpu_count() or 1) - _others_running())) if _spins else wanted


def fit_threads() -> None:
    """Lower the threads of a torch that was loaded before this package; a number that the user has chosen,
    in the environment or with `torch.set_num_threads`, stays.
    """
    global _lowered_to
    torch = sys.modules.get("torch")
    if not _spins or torch is None or _THREADS in os.environ:
        return
    if torch.get_num_threads() in (len(os.sched_getaffinity(0)), _lowered_to):
        _lowered_to = free_threads(usable_cores())
        torch.set_num_threads(_lowered_to)


def _quotas(cgroup: Path, membership: Path) -> list[float]:
    """Cores' worth of time that this process's control groups, version 2 or 1, may use."""
    quotas = []
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroup / controllers if controllers else cgroup
        # In a container the path may be the host's, while its own group lies at the root.
        parts = Path(path.lstrip("/")).parts
        for folder in {root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)}:
            if controllers:
                numbers = [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
            else:
                numbers = _text(folder / "cpu.max").split()
            if len(numbers) == 2 and all(number.strip().isdecimal() for number in numbers):
                quota, period = map(int, numbers)
                if quota > 0 and period > 0:
                    quotas.append(quota / period)
    return quotas


def _others_running() -> int:
    """Threads of other programs that want a core now: the median over a tenth of a second."""
    counts = []
    for _ in range(_SAMPLES):
        lines = _text(Path("/proc/stat")).splitlines()
        running = [int(line.split()[1]) for line in lines if line.startswith("procs_running")]
        counts.append(max(0, running[0] - 1) if running else 0)
        time.sleep(_APART_S)
    return int(statistics.median(counts))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""
