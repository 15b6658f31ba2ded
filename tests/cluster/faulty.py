"""Runs that tests break: a codec run as a process (codec_run.py), a cluster as another (nodes.py), figures.

Imported by the tests of this folder through the fixtures of conftest.py.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.runtime.processes import end_processes, processes_of

Line = dict[str, Any]
_HERE = Path(__file__).parent
_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What a fault cost. Seconds from the fault on; `lost_steps`: steps that were made twice."""

    noticed_s: float
    resumed_s: float
    lost_steps: int


class CodecRun:
    """codec_run.py in a process group of its own."""

    def __init__(
        self, run_dir: Path, corpus: Path, *, workers: str, address: str | None, epochs: int
    ) -> None:
        self.run_dir = run_dir
        self._stdout = run_dir.with_name(f"{run_dir.name}-{time.monotonic_ns()}.jsonl")
        self._stderr = self._stdout.with_suffix(".stderr")
        self.temporary = run_dir.with_name("temporary")
        self.temporary.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "RAY_ADDRESS": address or "local",
            "TMPDIR": str(self.temporary),
        }
        if address is not None:
            environment["RAY_AUTH_MODE"] = "disabled"
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, _HERE / "codec_run.py", run_dir, corpus, workers, str(epochs)],
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )

    def lines(self) -> list[Line]:
        whole = self._stdout.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for(self, found: Callable[[list[Line]], Any], timeout_s: float = _PATIENCE_S) -> Any:
        """What `found` makes of the lines, once that is true."""
        deadline = time.monotonic() + timeout_s
        while not (result := found(self.lines())):
            assert self.process.poll() is None, (self.lines()[-3:], self._stderr.read_text())
            assert time.monotonic() < deadline, (self.lines()[-3:], self._stderr.read_text())
            time.sleep(0.02)
        return result

    def result(self, timeout_s: float = _PATIENCE_S) -> Line:
        """The last line, once the process has ended by itself."""
        self.process.wait(timeout_s)
        last = self.lines()[-1]
        assert self.process.returncode == 0, (last, self._stderr.read_text())
        return last

    def wait_for_checkpoint(self) -> None:
        """Until the ranks have trained for a moment after a checkpoint that is newer than this call."""
        name = self.run_dir / "checkpoints" / "latest" / "name"
        before = name.read_text() if name.exists() else ""
        self.wait_for(lambda _: name.exists() and name.read_text() != before)
        seen = len(steps(self.lines()))
        self.wait_for(lambda lines: len(steps(lines)) >= seen + 2)

    def recovery(self, broken_at: float, *, announced: bool = True) -> Recovery:
        """Figures of the fault at `broken_at` (seconds since the epoch), after the run goes on.

        Ray adds ranks without an announcement; then the moment at which they begin counts as noticed.
        """
        lines = self.wait_for(lambda lines: _resumed(lines, broken_at) and lines)
        said = _is_warning if announced else (lambda line: "pids" in line)
        noticed = next(line["t"] for line in lines if line.get("t", 0) > broken_at and said(line))
        resumed, first = _resumed(lines, broken_at)
        before = [step for t, step in steps(lines) if t <= noticed]
        return Recovery(
            noticed_s=noticed - broken_at,
            resumed_s=resumed - broken_at,
            lost_steps=max(0, before[-1] - first + 1),
        )


def pids(lines: list[Line]) -> list[int]:
    """The processes of the ranks that began last, in the order of ranks; empty before that."""
    begun = [line["pids"] for line in lines if "pids" in line]
    return begun[-1] if begun else []


def steps(lines: list[Line]) -> list[tuple[float, int]]:
    """When each step that was reported was, and its number."""
    kinds = ("VQStepMetrics", "VQEpochMetrics")
    events = [(line["t"], line["event"]) for line in lines if "event" in line]
    return [(t, event["step"]) for t, event in events if event["event"] in kinds]


def _is_warning(line: Line) -> bool:
    event = line.get("event", {})
    return event.get("event") == "Notice" and event["level"] == "warning" and "lost" in event["message"]


def _resumed(lines: list[Line], broken_at: float) -> tuple[float, int] | None:
    """When the first step after the ranks began anew was reported, and its number."""
    begun = [line["t"] for line in lines if "pids" in line and line["t"] > broken_at]
    return next(((t, step) for t, step in steps(lines) if begun and t > begun[0]), None)


class Nodes:
    """nodes.py; its processes are known by a path in FOLDER in their environment."""

    def __init__(self, head_cpus: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))
        self._log = (self.folder / "stderr").open("w")
        self._process = subprocess.Popen(
            [sys.executable, _HERE / "nodes.py", str(head_cpus), self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "DISTILL_RAY_TEST_NODES": str(self.folder / "nodes")},
            start_new_session=True,
        )
        self.address = ""

    def begin(self) -> None:
        """Wait for the head."""
        self.address = self._answer()["address"]

    def add(self, cpus: int) -> int:
        number: int = self._ask(f"add {cpus}")["node"]
        return number

    def kill(self, number: int) -> None:
        self._ask(f"kill {number}")

    def state(self) -> Line:
        return self._ask("state")

    def wait_for(self, found: Callable[[Line], bool], timeout_s: float = 60.0) -> Line:
        deadline = time.monotonic() + timeout_s
        while not found(state := self.state()):
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        return state

    def processes(self) -> list[int]:
        return processes_of(self.folder)

    def wait_without(self, pids: Iterable[int], timeout_s: float = 30.0) -> None:
        """Resources are free a moment before the processes that had them are gone."""
        deadline = time.monotonic() + timeout_s
        while left := set(pids) & set(self.processes()):
            assert time.monotonic() < deadline, left
            time.sleep(0.2)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        end_processes(self.folder, patience_s=2.0)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, command: str) -> Line:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Line:
        assert self._process.stdout is not None
        line = "?"
        while line and not line.startswith("{"):  # Ray says on stdout that a raylet was killed
            line = self._process.stdout.readline()
        assert line, (self.folder / "stderr").read_text()
        answer: Line = json.loads(line)
        return answer


@contextlib.contextmanager
def cluster(*cpus: int) -> Iterator[Nodes]:
    """A cluster whose head has the first number of CPUs, and each further node one of the others."""
    nodes = Nodes(cpus[0])
    try:
        nodes.begin()
        for each in cpus[1:]:
            nodes.add(each)
        yield nodes
    finally:
        nodes.end()


def same_result(one: Line, other: Line) -> None:
    """Two last events say the same to the last digit, time aside, and the mean over the last epoch's steps,
    whose sum is rounded anew at each checkpoint.
    """
    rounded, timed = "final_train_loss", ("elapsed_s", "audio_seconds_per_second")
    exact = [key for key in one if key not in (rounded, *timed)]
    assert {key: one[key] for key in exact} == {key: other[key] for key in exact}
    assert math.isclose(one[rounded], other[rounded], rel_tol=1e-6)


def session_folder(pid: int) -> Path:
    """Where the private Ray that started process `pid` keeps its files."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    token = next(entry for entry in entries if entry.startswith(b"RAY_AUTH_TOKEN_PATH="))
    return Path(os.fsdecode(token.partition(b"=")[2])).parent


def titles(pids: list[int]) -> list[str]:
    """The command lines of processes; Ray's workers name themselves."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):  # gone meanwhile
            text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            found.append(text.decode(errors="replace").strip())
    return found


def process_titled(part: str, among: list[int]) -> int:
    """The one process whose command line contains `part`."""
    found = [pid for pid in among if part in " ".join(titles([pid]))]
    assert len(found) == 1, titles(among)
    return found[0]


def kill(pid: int) -> float:
    """SIGKILL; when that was, in seconds since the epoch."""
    now = time.time()
    os.kill(pid, signal.SIGKILL)
    return now
