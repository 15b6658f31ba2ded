"""What the integration tests share: the tiny training program, as a module and as a process."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_PROGRAM = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(scope="session")
def tiny_run() -> ModuleType:
    """tiny_run.py as a module."""
    spec = importlib.util.spec_from_file_location("tiny_run", _PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = module
    spec.loader.exec_module(module)
    return module


class TinyProgram:
    """tiny_run.py as a process in a process group of its own, as a shell starts it."""

    def __init__(self, run_dir: Path, *, workers: int, steps: int, pause: float) -> None:
        self._stderr = run_dir.with_name(f"{run_dir.name}.stderr")
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, _PROGRAM, run_dir, str(workers), str(steps), str(pause)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    def messages(self) -> list[str]:
        """The events so far; fails where anything else was written to stderr."""
        whole_lines = self._stderr.read_text().rpartition("\n")[0]
        return [json.loads(line)["message"] for line in whole_lines.splitlines()]

    def wait_for(self, found: Callable[[list[str]], bool], timeout_s: float = 200.0) -> list[str]:
        deadline = time.monotonic() + timeout_s
        while not found(messages := self.messages()):
            assert self.process.poll() is None, (self.process.communicate()[0], messages)
            assert time.monotonic() < deadline, messages
            time.sleep(0.02)
        return messages

    def press_ctrl_c(self) -> None:
        """SIGINT to the whole foreground process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def result(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """Its one line on stdout."""
        document: dict[str, Any] = json.loads(self.process.communicate(timeout=timeout_s)[0])
        return document


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[Callable[..., TinyProgram]]:
    """Starts tiny_run.py in tmp_path/run; what is left of it afterwards is killed."""
    started = []

    def start(*, workers: int, steps: int, pause: float) -> TinyProgram:
        started.append(TinyProgram(tmp_path / "run", workers=workers, steps=steps, pause=pause))
        return started[-1]

    yield start
    for program in started:
        program.process.kill()
        program.process.communicate()
