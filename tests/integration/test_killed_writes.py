"""What writes is killed at each of its system calls that change a disk: the old or the new state is left, the
product's reader reads it, and the same command goes on."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).with_name("killed_writes.py")
ROOT = Path(__file__).parents[2]
CALLS = (
    "write,writev,pwrite64,pwritev,pwritev2,sendfile,copy_file_range,fallocate,ftruncate,truncate,fsync,"
    "fdatasync,rename,renameat,renameat2,link,linkat,symlink,unlink,unlinkat,mkdir,mkdirat,rmdir,fchmod"
)
QUICK = ("record", "sounds")


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("killed_writes", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["killed_writes"] = module
    spec.loader.exec_module(module)
    return module


WRITERS = _module().WRITERS


@pytest.fixture(scope="module")
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed: apt-get install strace")
    tried = subprocess.run([found, "-f", "-o", os.devnull, "true"], check=False)
    if tried.returncode:
        pytest.skip("this machine lets no process trace another one")
    return found


@dataclass(frozen=True)
class Call:
    """The `number`th system call `name` of a thread."""

    name: str
    number: int


class Traced:
    """killed_writes.py under strace."""

    def __init__(self, strace: str, log: Path) -> None:
        self._strace, self._log = strace, log

    def calls(self, writer: str, folder: Path) -> list[Call]:
        """Those that change something below `folder`, in their order."""
        assert self._run(["-y", "-e", f"trace={CALLS}"], writer, folder) == 0
        seen: Counter[tuple[str, str]] = Counter()
        found: dict[Call, None] = {}
        for thread, name, rest in re.findall(r"^(\d+) +(\w+)\((.*)", self._log.read_text(), re.MULTILINE):
            seen[thread, name] += 1
            if str(folder) in rest:
                found[Call(name, seen[thread, name])] = None
        return list(found)

    def kill(self, call: Call, writer: str, folder: Path) -> bool:
        """Whether it was killed as it made that call."""
        inject = f"inject={call.name}:signal=SIGKILL:when={call.number}"
        code = self._run(["-e", f"trace={call.name}", "-e", inject], writer, folder)
        assert code in (0, -signal.SIGKILL, 128 + signal.SIGKILL)
        return code != 0

    def run(self, writer: str, folder: Path, *, is_done: bool) -> None:
        """Without a kill. Of what is done the command may say so."""
        done = self._program([], writer, folder)
        assert done.returncode == 0 or (is_done and "already holds a run" in done.stderr), done.stderr

    def _run(self, options: list[str], writer: str, folder: Path) -> int:
        traced = [self._strace, "-f", "-o", str(self._log), *options]
        done = self._program(traced, writer, folder)
        assert done.returncode <= 0 or done.returncode == 128 + signal.SIGKILL, done.stderr
        return done.returncode

    def _program(self, traced: list[str], writer: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*traced, sys.executable, PROGRAM, writer, folder],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def traced(strace: str, tmp_path: Path) -> Traced:
    return Traced(strace, tmp_path / "log")


def kill_everywhere(name: str, folder: Path, traced: Traced, most: int | None = None) -> int:
    """At `most` calls, spread over all; how often it was killed."""
    writer = WRITERS[name]
    start = folder / "start"
    start.mkdir()
    writer.before(start)
    old = writer.read(copy(start, folder / "old"))
    done = copy(start, folder / "new")
    calls = traced.calls(name, done)
    new = writer.read(done)
    assert new != old
    step = 1 if most is None else max(1, len(calls) // most)
    kills = 0
    for call in calls[::-step][:most]:
        tried = copy(start, folder / "tried")
        kills += traced.kill(call, name, tried)
        found = writer.read(copy(tried, folder / "looked at"))
        states = [new[:count] for count in range(len(old), len(new))] if writer.grows else [old]
        assert found in (*states, new), f"killed at {call}: {found}, neither {old} nor {new}"
        if writer.is_command:
            traced.run(name, tried, is_done=found == new)
        else:
            writer.write(tried)
        assert writer.read(tried) == new, f"it does not go on after a kill at {call}"
    return kills


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


@pytest.mark.parametrize("name", QUICK)
def test_a_kill_at_two_calls(name: str, tmp_path: Path, traced: Traced) -> None:
    assert kill_everywhere(name, tmp_path, traced, 2) == 2


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_at_every_call(name: str, tmp_path: Path, traced: Traced) -> None:
    kills = kill_everywhere(name, tmp_path, traced, 8 if WRITERS[name].is_command else None)
    print(f"{name}: killed at {kills} calls")
    assert kills >= 4
