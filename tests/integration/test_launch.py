"""`launch` with a real loop, gloo ranks and private Rays; some tests share one, as a start takes seconds."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import stat
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from distill_ray.errors import CancelledError, ConfigError, Problem, TrainingError
from distill_ray.events.records import Event, Notice
from distill_ray.runtime.launch import LaunchResult, launch
from distill_ray.runtime.plan import WorkerPlan, resolve_plan
from distill_ray.runtime.processes import processes_of
from distill_ray.runtime.ray_session import Session, ray_session
from distill_ray.training.worker import Worker

Start = Callable[..., Any]

_HERE, _ONE, _TWO = (WorkerPlan(num_workers=number, gpus_per_worker=0) for number in (0, 1, 2))


@pytest.fixture(scope="module")
def session(tiny_run: ModuleType) -> Iterator[Session]:
    """A private Ray with two CPUs; `launch` uses it because this process is connected to it."""
    with ray_session(resolve_plan(_TWO)) as session:
        import sys

        import ray.cloudpickle

        ray.cloudpickle.register_pickle_by_value(tiny_run)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield session


def _run(
    tiny_run: ModuleType,
    run_dir: Path,
    plan: WorkerPlan,
    steps: int,
    *,
    listener: Callable[[Event], None] = lambda event: None,
    pause: float = 0.0,
) -> LaunchResult:
    loop = functools.partial(tiny_run.loop, steps=steps, pause=pause)
    return launch(loop, run_dir=run_dir, plan=plan, listener=listener)


def _steps(messages: list[str]) -> list[str]:
    return [message for message in messages if message[0].isdigit()]


def _weights(run_dir: Path) -> torch.Tensor:
    state = torch.load(run_dir / "checkpoints" / "latest" / "state.pt", weights_only=True)
    return torch.cat([value.flatten() for value in state["model"].values()])


def test_one_ray_worker_and_this_process_agree_and_continue_each_other(
    session: Session, tiny_run: ModuleType, tmp_path: Path
) -> None:
    messages: list[str] = []

    def listener(event: Event) -> None:
        assert isinstance(event, Notice)
        messages.append(event.message)

    whole = _run(tiny_run, tmp_path / "whole", _HERE, 6, listener=listener)
    losses = [message.split()[:2] for message in messages]
    assert [step for step, _ in losses] == ["1", "2", "3", "4", "5", "6"]

    messages.clear()
    first = _run(tiny_run, tmp_path / "mixed", _HERE, 2, listener=listener)
    middle = _run(tiny_run, tmp_path / "mixed", _ONE, 4, listener=listener)
    last = _run(tiny_run, tmp_path / "mixed", _HERE, 6, listener=listener)

    assert [message.split()[:2] for message in _steps(messages)] == losses  # to the last digit
    assert last.final == whole.final
    assert torch.equal(_weights(tmp_path / "mixed"), _weights(tmp_path / "whole"))
    assert [result.plan.num_workers for result in (first, middle, last)] == [0, 1, 0]
    assert middle.checkpoint == tmp_path / "mixed" / "checkpoints" / "latest"
    assert [path.name for path in (tmp_path / "mixed" / "checkpoints").iterdir()] == ["latest"]


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_joined_batch_though_one_is_killed(
    session: Session, tiny_run: ModuleType, tmp_path: Path
) -> None:
    assert session.folder is not None
    _run(tiny_run, tmp_path / "one", _HERE, 12)
    sockets: list[str] = []
    lags: list[float] = []
    warnings: list[str] = []
    seen: list[tuple[int, int]] = []

    def listener(event: Event) -> None:
        assert isinstance(event, Notice)
        if event.level == "warning":
            warnings.append(event.message)
        elif event.message[0].isdigit():
            step, _, pid, sent = event.message.split()
            seen.append((int(step), int(pid)))
            lags.append(time.time() - float(sent))
            if int(step) == 3 and not warnings:
                sockets.extend(_listening([*processes_of(session.folder), os.getpid()]))
                os.kill(int(pid), signal.SIGKILL)

    result = _run(tiny_run, tmp_path / "two", _TWO, 12, listener=listener, pause=0.2)

    assert result.plan.num_workers == 2
    assert warnings == ["a worker process was lost; the training starts again from its newest checkpoint"]
    killed = seen[0][1]
    again = [step for step, pid in seen if pid != killed]
    assert 1 < again[0] <= 6  # neither from the start, nor with steps left out
    assert again == list(range(again[0], 13))
    torch.testing.assert_close(_weights(tmp_path / "two"), _weights(tmp_path / "one"), rtol=0, atol=1e-5)

    assert len(sockets) > 5  # Ray's own, and gloo's
    assert {address for address in sockets if address not in _LOOPBACK} == set()
    assert statistics.median(lags) < 0.5


def test_nobody_else_gets_at_the_files_of_a_private_ray(session: Session) -> None:
    assert session.folder is not None
    assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((session.folder / "token").stat().st_mode) == 0o600
    # What Ray opens to everybody lies below that folder and nowhere else.
    assert stat.S_IMODE((session.folder / "ray").stat().st_mode) == 0o777
    assert not any(session.folder.glob("session_*"))


def test_signals_to_a_group_of_processes_do_not_reach_its_ray(session: Session) -> None:
    """`timeout` and shells send them to all, and what is to keep a checkpoint needs its Ray for that."""
    assert session.folder is not None
    servers = processes_of(session.folder)
    assert len(servers) >= 3
    assert os.getpgrp() not in {os.getpgid(pid) for pid in servers}


_LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def _listening(pids: list[int]) -> list[str]:
    """The addresses (hexadecimal, as in /proc/net/tcp) on which the processes listen."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].partition(":")[0])
    return found


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_frees_the_workers(
    session: Session, tiny_run: ModuleType, tmp_path: Path
) -> None:
    ranks: set[int] = set()

    def listener(event: Event) -> None:
        assert isinstance(event, Notice)
        if event.message.startswith("2 "):  # by now the first step's checkpoint is kept
            ranks.add(int(event.message.split()[2]))
            os.kill(os.getpid(), signal.SIGINT)
        if "Ctrl-C" in event.message:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(CancelledError, match="at once; its newest checkpoint is kept"):
        _run(tiny_run, tmp_path, _TWO, 1000, listener=listener, pause=2.0)

    (rank,) = ranks
    deadline = time.monotonic() + 10
    while Path(f"/proc/{rank}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{rank}").exists()
    assert _weights(tmp_path).isfinite().all()


def _fail_on_rank_1(worker: Worker) -> Event:
    if worker.rank == 1:
        raise ConfigError([Problem("training.lr", "too high", "--lr")])
    worker.all_reduce(torch.zeros(1))  # waits for the other rank
    raise AssertionError("rank 1 never comes")


def test_a_known_error_of_any_rank_comes_back_as_it_was(session: Session, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        launch(_fail_on_rank_1, run_dir=tmp_path, plan=_TWO, listener=lambda event: None)
    assert str(caught.value) == "--lr (training.lr): too high"
    assert caught.value.problems == (Problem("training.lr", "too high", "--lr"),)
    assert not (tmp_path / "error.log").exists()


def test_ctrl_c_stops_all_ranks_keeps_a_checkpoint_and_leaves_no_process(
    start_program: Start, tmp_path: Path
) -> None:
    program = start_program(workers=2, steps=1000, pause=0.1)
    program.wait_for(lambda messages: len(_steps(messages)) >= 3)
    folder = _session_folder(program.process.pid)
    assert len(processes_of(folder)) >= 5
    assert (folder / "token").stat().st_mode & 0o777 == 0o600

    program.press_ctrl_c()
    result = program.result()

    assert program.process.returncode == 0
    assert result["final"]["exit_reason"] == "cancelled"
    last = int(_steps(program.messages())[-1].split()[0])
    assert result["final"]["steps"] == last
    state = torch.load(Path(result["checkpoint"]) / "state.pt", weights_only=True)
    assert state["step"] == last
    assert processes_of(folder) == []
    assert not folder.exists()


@pytest.mark.slow
def test_a_killed_driver_takes_its_ray_along_and_the_next_run_finds_its_checkpoint(
    start_program: Start, tiny_run: ModuleType, tmp_path: Path
) -> None:
    program = start_program(workers=1, steps=1000, pause=0.2)
    program.wait_for(lambda messages: len(_steps(messages)) >= 4)
    folder = _session_folder(program.process.pid)
    program.process.kill()
    deadline = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(folder) == []
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()

    seen = len(_steps(program.messages()))  # the ranks may have gone on for a moment
    steps: list[int] = []
    assert (tmp_path / "run" / "checkpoints" / "ray").is_dir()
    _run(tiny_run, tmp_path / "run", _HERE, 80, listener=lambda event: steps.append(_step_of(event)))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["latest"]
    assert steps[0] >= seen
    assert steps == list(range(steps[0], 81))


def _step_of(event: Event) -> int:
    assert isinstance(event, Notice)
    return int(event.message.split()[0])


def _session_folder(driver: int) -> Path:
    """Where the private Ray of process `driver` keeps its files, from the command line of its raylet."""
    for child in Path("/proc").glob("[0-9]*"):
        try:
            parent = (child / "stat").read_text().rpartition(")")[2].split()[1]
            words = (child / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if parent == str(driver) and words[0].endswith("/raylet"):
            sockets = next(word for word in words if word.startswith("--raylet_socket_name="))
            return Path(sockets.partition("=")[2]).parents[3]  # FOLDER/ray/session_…/sockets/raylet
    raise AssertionError(f"process {driver} has no raylet")


@pytest.mark.slow  # test_going_on.py does it to a training
def test_ctrl_c_in_this_process_stops_after_the_step(start_program: Start) -> None:
    program = start_program(workers=0, steps=1000, pause=0.05)
    program.wait_for(lambda messages: len(_steps(messages)) >= 3)
    program.press_ctrl_c()
    result = program.result()
    assert program.process.returncode == 0
    assert result["final"]["exit_reason"] == "cancelled"
    assert result["final"]["steps"] == int(_steps(program.messages())[-1].split()[0])


def test_a_second_ctrl_c_in_this_process_ends_at_once_and_ray_is_not_imported(start_program: Start) -> None:
    program = start_program(workers=0, steps=1000, pause=30.0)
    program.wait_for(lambda messages: len(_steps(messages)) >= 1)
    program.press_ctrl_c()
    time.sleep(0.3)
    program.press_ctrl_c()
    result = program.result(timeout_s=10)
    assert program.process.returncode == 3
    assert result["error"] == "CancelledError"
    assert "its newest checkpoint is kept" in result["message"]
    assert result["ray_imported"] is False


def test_an_unforeseen_error_becomes_one_sentence_and_a_log(tmp_path: Path) -> None:
    def loop(worker: Worker) -> Event:
        raise ZeroDivisionError("a bug")

    with pytest.raises(TrainingError) as caught:
        launch(loop, run_dir=tmp_path, plan=_HERE, listener=lambda event: None)
    log = tmp_path / "error.log"
    assert str(caught.value) == (
        f"the training stopped: ZeroDivisionError: a bug (the traceback is in {log})"
    )
    assert 'raise ZeroDivisionError("a bug")' in log.read_text()
