"""What a run loses when something is killed (a rank, Ray Train's controller, the driver, a node) or full.

Every fault adds a row to the Markdown table at $DISTILL_RAY_FAULT_TABLE (or to none); so do those of jobs
(`test_job_faults.py`) and of the storage (`storage/test_runs.py`). By hand, all of them:
`DISTILL_RAY_FAULT_TABLE=faults.md python -m pytest -m slow tests/cluster -k "fault or outage"`.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Line = dict[str, Any]
Row = Callable[..., None]
# A run is begun up to four times, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(1200)
ELASTIC_EPOCHS = 24  # some 40 s of steps: enough for a node to go and to come back


@pytest.fixture
def start(
    faulty: ModuleType, small_corpus: Path, undisturbed: Any, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Starts a codec run in tmp_path/run; what is left of it afterwards is killed."""
    started = []

    def begin(workers: str, address: str | None = None, epochs: int = undisturbed.epochs) -> Any:
        run = faulty.CodecRun(tmp_path / "run", small_corpus, workers=workers, address=address, epochs=epochs)
        started.append(run)
        return run

    yield begin
    for run in started:
        run.process.kill()
        run.process.wait()
    left = {path.name for run in started for path in run.temporary.iterdir()}
    assert {name for name in left if not name.startswith("torchinductor_")} == set()  # torch's own cache


@pytest.mark.slow
def test_a_killed_rank_and_a_killed_controller_cost_only_the_steps_since_the_checkpoint(
    faulty: ModuleType, start: Callable[..., Any], undisturbed: Any, row: Row
) -> None:
    run = start("2")
    run.wait_for_checkpoint()
    rank1 = faulty.pids(run.lines())[1]
    folder = faulty.session_folder(rank1)
    of_rank = run.recovery(faulty.kill(rank1))
    run.wait_for_checkpoint()
    processes = faulty.processes_of(folder)
    of_controller = run.recovery(faulty.kill(faulty.process_titled("TrainController", processes)))
    final = run.result()["final"]

    faulty.same_result(final, undisturbed.final)  # to the last digit
    assert faulty.processes_of(folder) == []
    assert not folder.exists()
    assert [path.name for path in (run.run_dir / "checkpoints").iterdir()] == ["latest"]
    row("a training rank, SIGKILL (private Ray, 2 ranks)", of_rank, final, undisturbed.final)
    row("Ray Train's controller, SIGKILL (private Ray, 2 ranks)", of_controller, final, undisturbed.final)


@pytest.mark.slow
def test_a_killed_driver_is_gone_with_all_its_processes_and_the_next_run_goes_on(
    faulty: ModuleType, start: Callable[..., Any], undisturbed: Any, row: Row
) -> None:
    run = start("2")
    run.wait_for_checkpoint()
    folder = faulty.session_folder(faulty.pids(run.lines())[0])
    broken_at = faulty.kill(run.process.pid)
    while faulty.processes_of(folder) or folder.exists():
        assert time.time() - broken_at < 20
        time.sleep(0.05)
    gone_s = time.time() - broken_at
    again = start("2")
    final = again.result()["final"]

    faulty.same_result(final, undisturbed.final)
    lines = again.lines()
    last, (resumed, first) = faulty.steps(run.lines())[-1][1], faulty.steps(lines)[0]
    recovery = faulty.Recovery(
        noticed_s=gone_s, resumed_s=resumed - broken_at, lost_steps=max(0, last - first + 1)
    )
    assert first > 1
    row("the driver, SIGKILL, started again (private Ray, 2 ranks)", recovery, final, undisturbed.final)


def _is_of_a_run(title: str) -> bool:
    # The state actor is Ray's own, for its list of runs.
    return ("Train" in title or "Mailbox" in title) and "TrainStateActor" not in title


@pytest.mark.slow
def test_on_a_cluster_the_controller_and_the_driver_leave_nothing_and_the_run_goes_on(
    faulty: ModuleType, start: Callable[..., Any], undisturbed: Any, row: Row
) -> None:
    with faulty.cluster(2) as nodes:
        run = start("2", nodes.address)
        run.wait_for_checkpoint()
        controller = faulty.process_titled("TrainController", nodes.processes())
        of_controller = run.recovery(faulty.kill(controller))
        run.wait_for_checkpoint()
        ranks = faulty.pids(run.lines())
        broken_at = faulty.kill(run.process.pid)
        free = nodes.wait_for(lambda state: state["free_cpus"] == 2.0 and state["groups"] == [])
        gone_s = time.time() - broken_at
        assert free["cpus"] == 2.0
        nodes.wait_without(ranks)
        again = start("2", nodes.address)
        final = again.result()["final"]
        faulty.same_result(final, undisturbed.final)
        nodes.wait_for(lambda state: state["free_cpus"] == 2.0 and state["groups"] == [])
        deadline = time.monotonic() + 30
        while left := [title for title in faulty.titles(nodes.processes()) if _is_of_a_run(title)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.5)
        last, (resumed, first) = faulty.steps(run.lines())[-1][1], faulty.steps(again.lines())[0]
        row("the controller, SIGKILL (cluster, 2 ranks)", of_controller, final, undisturbed.final)
        recovery = faulty.Recovery(
            noticed_s=gone_s, resumed_s=resumed - broken_at, lost_steps=max(0, last - first + 1)
        )
        row("the driver, SIGKILL, started again (cluster, 2 ranks)", recovery, final, undisturbed.final)


@pytest.mark.slow
def test_a_killed_node_leaves_one_rank_and_two_when_it_is_back(
    faulty: ModuleType, start: Callable[..., Any], row: Row, small_corpus: Path, tmp_path: Path
) -> None:
    with faulty.cluster(1, 1) as nodes:
        run = start("1-2", nodes.address, ELASTIC_EPOCHS)
        run.wait_for_checkpoint()
        assert len(faulty.pids(run.lines())) == 2
        broken_at = time.time()
        nodes.kill(1)
        lost = run.recovery(broken_at)
        assert len(faulty.pids(run.lines())) == 1
        run.wait_for_checkpoint()
        returned_at = time.time()
        nodes.add(1)
        run.wait_for(lambda lines: len(faulty.pids(lines)) == 2)
        back = run.recovery(returned_at, announced=False)
        final = run.result()["final"]
        assert final["exit_reason"] == "completed"
        nodes.wait_for(lambda state: state["free_cpus"] == 2.0 and state["groups"] == [])
    quiet = faulty.CodecRun(
        tmp_path / "quiet" / "run", small_corpus, workers="2", address=None, epochs=ELASTIC_EPOCHS
    )
    whole = quiet.result()["final"]
    # One rank adds up a step's batch in another order than two: the same training, but for rounding.
    assert final["steps"] == whole["steps"]
    assert math.isclose(final["final_val_loss"], whole["final_val_loss"], rel_tol=0.02)
    row("a node of two, SIGKILL (--num-workers 1-2)", lost, final, whole)
    row("the node comes back", back, final, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "distill-ray-test", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_at_checkpoint_time_costs_no_step(
    faulty: ModuleType,
    start: Callable[..., Any],
    undisturbed: Any,
    row: Row,
    small_disk: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "run").symlink_to(small_disk)
    run = start("2")
    run.wait_for_checkpoint()
    before = (run.run_dir / "checkpoints" / "latest" / "name").read_text()
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    full_at = time.time()
    said = run.wait_for(lambda lines: _notice(lines, "could not be written"))
    assert "the disk is full" in said["event"]["message"]
    assert (run.run_dir / "checkpoints" / "latest" / "name").read_text() >= before  # of 000012-5f0c
    (small_disk / "filler").unlink()
    again = run.wait_for(lambda lines: _notice(lines, "are kept in"))
    final = run.result()["final"]
    faulty.same_result(final, undisturbed.final)
    made = [step for _, step in faulty.steps(run.lines())]
    assert made == sorted(made)  # none twice
    recovery = faulty.Recovery(noticed_s=said["t"] - full_at, resumed_s=again["t"] - full_at, lost_steps=0)
    row("a full disk at checkpoint time (made room at once)", recovery, final, undisturbed.final)


def _notice(lines: list[Line], part: str) -> Line | None:
    return next((line for line in lines if part in line.get("event", {}).get("message", "")), None)
