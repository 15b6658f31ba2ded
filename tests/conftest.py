"""For all tests: one thread for torch, since tests are small and machines shared; a cache of their own."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

# Before torch is imported anywhere, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton reads it when it is first imported; without a GPU its interpreter runs the kernels' tests.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# In the background of a script, or under nohup, they are ignored, by the processes that tests start too.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def pytest_collection_finish() -> None:
    """Tests and modules stay to the end: Python's collector need not look at all of them again and again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared corpora and codes of tests must neither come from nor go to the user's cache."""
    previous = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if previous is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = previous


@pytest.fixture(scope="session")
def start_forked() -> Callable[..., subprocess.Popen[Any]]:
    """Starts `distill-ray` with these words, or a function, as a process of its own, with pipes, signals and
    an exit code, by a fork of this one: to load torch takes a new interpreter longer than most commands.
    Not for what begins Ray: where this process has used it, gRPC waits for files that the fork has closed,
    and says so without end.
    """

    def start(
        *words: object,
        function: Callable[[], object] | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        given = list(map(str, words))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # since Python 3.12: of threads, which wait here
            return subprocess.Popen(
                [sys.executable, *given],  # for what Popen says; the fork never comes to it
                preexec_fn=lambda: _forked(function or (lambda: _command(given)), environment or {}),
                **options,
            )

    return start


def _command(words: list[str]) -> int:
    from distill_ray.cli.main import app
    from distill_ray.cli.output import run

    return run(app, words)


def _forked(function: Callable[[], object], environment: Mapping[str, str]) -> NoReturn:
    """It in a fork, whose streams are those of the process; what it returns is the exit code, None 0."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # Popen waits until one of them is closed
    code = 99
    try:
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it
        os.environ.update(environment)
        warnings.simplefilter("error")
        code = int(function() or 0)
        sys.stdout.flush()
    finally:
        os._exit(code)
