"""What the integration tests share: the tiny training program, as a module and as a process."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distill_ray.cli.main import app
from distill_ray.cli.output import run

RATE = 8_000
SETTINGS = """
[corpus]
sample_rate = 8000
val_fraction = 0.3

[model]
width = 16
encoder_blocks = 1
decoder_blocks = 1
latent_dim = 16
n_fft = 256
hop = 64

[training]
window_seconds = 0.25
min_epoch_steps = 4
warmup_steps = 4
val_seconds = 2.0

[prior]
hidden_size = 32
num_layers = 2
num_heads = 2
context_frames = 32

[prior_training]
min_epoch_steps = 5
"""
_PROGRAM = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(scope="session")
def small_settings() -> str:
    """TOML of a small codec and prior of recordings at 8 kHz."""
    return SETTINGS


@pytest.fixture(scope="session")
def plucks() -> Callable[[int, float], tuple[np.ndarray, np.random.Generator]]:
    """Makes a tone of so many seconds at 8 kHz, another for each number; gives what draws its noise too."""

    def make(number: int, seconds: float) -> tuple[np.ndarray, np.random.Generator]:
        rng = np.random.default_rng(number)
        time_T = np.arange(round(seconds * RATE)) / RATE
        tone_T = np.sin(2 * np.pi * 110 * 2 ** rng.uniform(0, 3) * time_T) * np.exp(-(time_T * 3 % 1.0) * 4)
        return tone_T, rng

    return make


class _Signalling(io.StringIO):
    """A stream of this process, which gets `signals` once a line that is written has `after`."""

    def __init__(self, after: str, signals: Sequence[int]) -> None:
        super().__init__()
        self._after, self._signals = after, list(signals)

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._signals and self._after in self.getvalue():
            signals, self._signals = self._signals, []
            for number in signals:
                os.kill(os.getpid(), number)
        return written


@pytest.fixture(scope="session")
def in_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in this process, since to load torch takes another longer than the work.

    `signals` come once a line of stderr has `after`. A command that SIGKILL ends is run by a fork, whose
    words are lost.
    """

    def command(
        *arguments: object,
        cwd: Path,
        environment: Mapping[str, str],
        after: str = "",
        signals: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        words, out, said = list(map(str, arguments)), io.StringIO(), _Signalling(after, signals)
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for name, value in environment.items():
                patch.setenv(name, value)
            stack.enter_context(contextlib.chdir(cwd))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(said))
            code = _forked(words) if signal.SIGKILL in signals else run(app, words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), said.getvalue())

    return command


def _forked(words: list[str]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.12: of threads, which wait here
        pid = os.fork()
    if pid == 0:
        try:
            run(app, words)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="session")
def tiny_run() -> ModuleType:
    """tiny_run.py as a module."""
    return _module("tiny_run")


@pytest.fixture(scope="session")
def ddp_rank() -> ModuleType:
    """ddp_rank.py as a module."""
    return _module("ddp_rank")


def _module(name: str) -> ModuleType:
    """The file of this name beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
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
