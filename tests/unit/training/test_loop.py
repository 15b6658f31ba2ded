"""The loop's decisions, with a task that only counts: no model, no data."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch

from distill_ray.errors import CheckpointError
from distill_ray.events.records import Event, Notice
from distill_ray.storage.atomic import WriteCheckpoint
from distill_ray.training import checkpoint, loop
from distill_ray.training.budget import Budget
from distill_ray.training.loop import LoopSettings, Pace, Progress, restore, run_loop
from distill_ray.training.worker import LocalWorker, StopFlag

STEPS = 4


class CountingTask:
    """Held-out losses come from a list; `stop_at` asks to stop after that many steps, and from the epoch
    `ends_after` on the task wants to end, from `newest_from` on the newest epoch is kept.
    """

    def __init__(
        self,
        losses: list[float],
        stop: StopFlag | None = None,
        stop_at: int = -1,
        ends_after: int = 0,
        newest_from: int = 0,
    ) -> None:
        self.losses = losses
        self.newest_from = newest_from
        self.ends_after = ends_after
        self.stop, self.stop_at = stop, stop_at
        self.steps: list[int] = []
        self.fractions: list[float] = []
        self.validated = 0
        self.best: list[int] = []
        self.epochs: list[tuple[int, int]] = []
        self.recovered: list[int] = []
        self.settled: list[int] = []

    def train_step(self, step: int, fraction: float) -> None:
        self.steps.append(step)
        self.fractions.append(fraction)
        if self.stop is not None and step + 1 == self.stop_at:
            self.stop.request()

    def step_event(self, progress: Progress, pace: Pace) -> Event:
        return Notice(level="info", message=f"step {progress.step}")

    def validate(self) -> float:
        self.validated += 1
        return self.losses[min(self.validated, len(self.losses)) - 1]

    def settle(self, progress: Progress) -> None:
        self.settled.append(progress.epoch)

    def keep_best(self) -> None:
        self.best.append(self.validated)

    def epoch_event(self, progress: Progress, pace: Pace) -> Event:
        self.epochs.append((progress.epoch, progress.step))
        return Notice(level="info", message=f"epoch {progress.epoch}")

    def keeps_newest(self) -> bool:
        return 0 < self.newest_from <= self.validated

    def verdict(self) -> str:
        return "health" if self.ends_after and self.validated >= self.ends_after else ""

    def recover(self, progress: Progress) -> Notice | None:
        if self.losses[min(self.validated, len(self.losses)) - 1] < 1000.0:
            return None
        self.recovered.append(progress.epoch)
        return Notice(level="warning", message="recovered")

    def consolidate(self) -> None:
        pass

    def write(self, folder: Path) -> None:
        checkpoint.write_json(folder / "task.json", {"validated": self.validated})

    def read(self, folder: Path) -> None:
        self.validated = checkpoint.read_json(folder / "task.json")["validated"]


def run(
    task: CountingTask,
    folder: Path,
    *,
    epochs: int | None = 3,
    max_minutes: float | None = None,
    patience: int = 0,
    stop: StopFlag | None = None,
    checkpoint_seconds: float = 1e9,
) -> tuple[Progress, LocalWorker]:
    worker = LocalWorker(folder, device=torch.device("cpu"), stop=stop)
    budget = Budget(steps_per_epoch=STEPS, epochs=epochs, max_minutes=max_minutes)
    settings = LoopSettings(patience=patience, checkpoint_seconds=checkpoint_seconds)
    return run_loop(task, worker, budget, settings, restore(worker, task)), worker


def test_epochs_and_best(tmp_path: Path) -> None:
    task = CountingTask([3.0, 1.0, 2.0])
    progress, _ = run(task, tmp_path)
    assert task.steps == list(range(12))
    assert task.fractions == [step / 12 for step in range(12)]
    assert task.epochs == [(1, 4), (2, 8), (3, 12)]
    assert task.best == [1, 2]
    assert (progress.best_loss, progress.best_epoch, progress.ended) == (1.0, 2, "completed")


def test_the_start_is_a_part_of_the_time_and_a_step_is_made_in_any_case(tmp_path: Path) -> None:
    task, worker = CountingTask([3.0]), LocalWorker(tmp_path, device=torch.device("cpu"))
    budget = Budget(steps_per_epoch=STEPS, epochs=None, max_minutes=1.0)
    settings = LoopSettings(patience=0, checkpoint_seconds=1e9)
    progress = run_loop(task, worker, budget, settings, Progress(), start_s=75.0)
    assert (task.steps, task.epochs, progress.ended) == ([0], [(1, 1)], "completed")
    assert progress.elapsed_s >= 75.0


class Told(StopFlag):
    """Says a number of steps when it has been asked so often."""

    def __init__(self, after: int, steps: int) -> None:
        super().__init__()
        self.asked, self.after, self.said = 0, after, steps

    def steps(self) -> int:
        self.asked += 1
        return self.said if self.asked > self.after else 0


def test_a_run_that_is_told_its_steps_waits_for_them_and_ends_there_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_PACE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_WAIT_SECONDS", 0.001)
    task, told = CountingTask([3.0, 1.0, 2.0]), Told(after=60, steps=10)
    monkeypatch.setattr(loop, "_STEP_EVENT_SECONDS", 1e9)  # as where all steps are issued in an instant
    heard: list[Event] = []
    worker = LocalWorker(tmp_path, device=torch.device("cpu"), stop=told, listener=heard.append)
    budget = Budget(steps_per_epoch=STEPS, epochs=None, max_minutes=1e6, max_steps=0)
    settings = LoopSettings(patience=0, checkpoint_seconds=1e9)
    progress = run_loop(task, worker, budget, settings, restore(worker, task))
    assert (progress.step, progress.epoch, progress.ended) == (10, 3, "completed")
    assert task.fractions[:6] == pytest.approx([0.0] * 6, abs=1e-6)  # nobody had said before the seventh
    assert task.fractions[6:] == [step / 10 for step in range(6, 10)]
    assert told.asked > 60
    # It is heard of where it waits, or whoever says the steps would wait for its pace.
    assert "step 6" in [event.message for event in heard if isinstance(event, Notice)]


def test_steps_that_say_nothing_of_the_pace_are_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's first steps compile and capture; who says how many steps are made goes by what it is told."""
    monkeypatch.setattr(loop, "_PACE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_UNSETTLED_STEPS", 5)
    monkeypatch.setattr(loop, "_STEP_EVENT_SECONDS", 0.0)
    heard: list[Event] = []
    told = Told(after=30, steps=9)
    worker = LocalWorker(tmp_path, device=torch.device("cpu"), stop=told, listener=heard.append)
    task = CountingTask([3.0])
    budget = Budget(steps_per_epoch=100, epochs=None, max_minutes=1e6, max_steps=0)
    run_loop(task, worker, budget, LoopSettings(patience=0, checkpoint_seconds=1e9), restore(worker, task))
    steps = [
        int(event.message.split()[1])
        for event in heard
        if str(getattr(event, "message", "")).startswith("step")
    ]
    assert steps[0] == 5
    assert set(steps) >= {5, 6, 7, 8}


def test_a_diverged_epoch_is_recovered_from_at_its_end(tmp_path: Path) -> None:
    task = CountingTask([3.0, 5000.0, 2.0])
    progress, _ = run(task, tmp_path)
    assert task.recovered == [2]
    assert (progress.best_epoch, progress.epochs_since_best, progress.ended) == (3, 0, "completed")


def test_a_nan_loss_is_never_the_best(tmp_path: Path) -> None:
    progress, _ = run(CountingTask([math.nan, 2.0, math.nan]), tmp_path)
    assert (progress.best_loss, progress.best_epoch) == (2.0, 2)


def test_where_the_newest_is_kept_an_earlier_better_one_is_not(tmp_path: Path) -> None:
    task = CountingTask([3.0, 1.0, 2.0, 2.5, math.nan], newest_from=3)
    progress, _ = run(task, tmp_path, epochs=5)
    assert task.best == [1, 2, 3, 4]
    assert (progress.best_loss, progress.best_epoch) == (2.5, 4)


def test_patience(tmp_path: Path) -> None:
    task = CountingTask([3.0, 1.0, 2.0, 2.0, 2.0, 0.5])
    progress, _ = run(task, tmp_path, epochs=6, patience=3)
    assert (progress.epoch, progress.best_epoch, progress.ended) == (5, 2, "early_stop")


def test_the_tasks_verdict_ends_a_run_and_keeps_it_ended(tmp_path: Path) -> None:
    task = CountingTask([3.0, 1.0, 2.0], ends_after=2)
    progress, _ = run(task, tmp_path)
    assert (progress.step, progress.epoch, progress.ended) == (8, 2, "health")
    saved = json.loads((tmp_path / "latest" / "progress.json").read_text())
    assert (saved["step"], saved["ended"]) == (8, "health")
    again = CountingTask([0.0], ends_after=2)
    progress, _ = run(again, tmp_path)
    assert (again.steps, again.epochs, progress.ended) == ([], [], "health")
    without = CountingTask([0.0])
    progress, _ = run(without, tmp_path)
    assert (without.steps, progress.ended) == ([8, 9, 10, 11], "completed")


def test_the_verdict_counts_before_the_budget_and_ctrl_c(tmp_path: Path) -> None:
    progress, _ = run(CountingTask([1.0], ends_after=3), tmp_path / "budget")
    assert (progress.step, progress.ended) == (12, "health")
    stop = StopFlag()
    progress, _ = run(CountingTask([1.0], stop, stop_at=8, ends_after=2), tmp_path / "stop", stop=stop)
    assert (progress.step, progress.ended) == (8, "health")


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    stop = StopFlag()
    first = CountingTask([3.0, 1.0, 2.0], stop, stop_at=6)
    progress, _ = run(first, tmp_path, stop=stop)
    assert (progress.ended, progress.step, progress.epoch) == ("cancelled", 6, 1)
    assert first.epochs == [(1, 4)]
    second = CountingTask([3.0, 1.0, 2.0])
    progress, _ = run(second, tmp_path)
    assert second.steps == list(range(6, 12))
    assert second.epochs == [(2, 8), (3, 12)]
    assert (progress.best_epoch, progress.best_loss, progress.ended) == (2, 1.0, "completed")


def test_a_run_stopped_in_its_first_epoch_is_validated_but_not_advanced(tmp_path: Path) -> None:
    stop = StopFlag()
    task = CountingTask([3.0], stop, stop_at=2)
    progress, worker = run(task, tmp_path, stop=stop)
    assert (task.validated, task.best, task.epochs) == (1, [], [])
    assert (progress.step, progress.epoch, progress.best_loss) == (2, 0, math.inf)
    assert restore(worker, task).best_loss == math.inf


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    run(CountingTask([3.0, 1.0, 2.0]), tmp_path)
    again = CountingTask([0.0])
    progress, _ = run(again, tmp_path)
    assert again.steps == []
    assert (progress.step, progress.ended) == (12, "completed")


def test_more_epochs_continue_a_finished_run(tmp_path: Path) -> None:
    run(CountingTask([3.0, 1.0, 2.0]), tmp_path)
    again = CountingTask([0.0, 0.0, 0.0, 0.5])
    progress, _ = run(again, tmp_path, epochs=4)
    assert again.steps == [12, 13, 14, 15]
    assert (progress.best_loss, progress.best_epoch) == (0.5, 4)


def test_a_time_budget_ends_inside_an_epoch_and_closes_it(tmp_path: Path) -> None:
    class SlowTask(CountingTask):
        def train_step(self, step: int, fraction: float) -> None:
            super().train_step(step, fraction)
            # Half of the budget passes in each step: the clock is real, so the bound is generous.
            time.sleep(0.06)

    task = SlowTask([3.0])
    progress, _ = run(task, tmp_path, epochs=None, max_minutes=0.1 / 60)
    assert progress.ended == "completed"
    assert 1 <= progress.step < STEPS
    assert task.epochs == [(1, progress.step)]
    assert task.best == [1]


def test_every_step_can_be_a_checkpoint(tmp_path: Path) -> None:
    stop = StopFlag()
    task = CountingTask([3.0], stop, stop_at=3)
    run(task, tmp_path, stop=stop, checkpoint_seconds=0.0)
    saved = json.loads((tmp_path / "latest" / "progress.json").read_text())
    assert (saved["step"], saved["ended"]) == (3, "cancelled")


def test_ranks_save_at_the_same_steps_whatever_their_clocks(tmp_path: Path) -> None:
    class LateRank(LocalWorker):
        """Rank 1, whose clock is always ahead of the one of rank 0 that counts."""

        def __init__(self) -> None:
            super().__init__(tmp_path, device=torch.device("cpu"))
            self.rank, self.world_size = 1, 2
            self.saved: list[tuple[int, bool]] = []

        def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor.zero_()  # rank 0 says: no time has passed, and nobody wants to stop

        def checkpoint(self, event: Event, write: WriteCheckpoint | None, *, last: bool = False) -> None:
            self.saved.append((len(task.steps), last))

    task, worker = CountingTask([3.0]), LateRank()
    budget = Budget(steps_per_epoch=STEPS, epochs=1, max_minutes=None)
    run_loop(task, worker, budget, LoopSettings(patience=0, checkpoint_seconds=0.0), Progress())
    assert worker.saved == [(1, False), (2, False), (3, False), (4, False), (4, True)]


def test_a_damaged_progress_file_is_one_sentence(tmp_path: Path) -> None:
    run(CountingTask([3.0]), tmp_path, epochs=1)
    (tmp_path / "latest" / "progress.json").write_text('{"steps": 3}')
    with pytest.raises(CheckpointError, match=r"progress\.json is damaged"):
        run(CountingTask([3.0]), tmp_path, epochs=1)
