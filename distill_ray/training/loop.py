"""The loop that both trainings share: budget, stop, epochs, best weights, checkpoints, resume.

A `Task` (`training/vqvae.py`, `training/prior.py`) knows its model and data; the loop knows when to do what.
Every decision that ranks must share is made from rank 0's clock, the sum of all stop flags and all-reduced
figures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from distill_ray.events.records import Event, Notice
from distill_ray.storage.atomic import WriteCheckpoint
from distill_ray.training import checkpoint
from distill_ray.training.budget import Budget, Clock
from distill_ray.training.worker import Worker

_STEP_EVENT_SECONDS = 0.25
# Ranks agree on time and stop flags this often: each agreement makes the host wait for a GPU.
_GPU_SYNC_STEPS = 10


@dataclass(kw_only=True)
class Progress:
    """Where a run is; saved in every checkpoint. `step` counts finished steps, `epoch` finished epochs."""

    step: int = 0
    epoch: int = 0
    epoch_start_step: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    epochs_since_best: int = 0
    elapsed_s: float = 0.0
    training_s: float = 0.0
    ended: str = ""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What an event says of time. `steps_per_second` is the training rate since the run (re)started, and
    `training_s` the seconds of training since then.
    """

    fraction: float
    steps_per_second: float
    eta_s: float | None
    elapsed_s: float
    training_s: float = 0.0


class Task(Protocol):
    """One training: a model, its data and its events. Calls marked collective are made by every rank."""

    def train_step(self, step: int, fraction: float) -> None:
        """One optimizer step (collective)."""
        ...

    def step_event(self, progress: Progress, pace: Pace) -> Event:
        """The state of this rank; waits for the device."""
        ...

    def validate(self) -> float:
        """The held-out loss of the weights that would be saved; changes nothing else (collective)."""
        ...

    def keep_best(self) -> None:
        """The weights just validated are the best so far."""
        ...

    def epoch_event(self, progress: Progress, pace: Pace) -> Event:
        """The finished epoch; starts the next one's sums (collective)."""
        ...

    def verdict(self) -> str:
        """Why the run must end now by what the task has measured, or "": the same on every rank, and after
        a resume the same as before it. Becomes `Progress.ended`.
        """
        ...

    def keeps_newest(self) -> bool:
        """Whether the newest epoch counts as the best, since held-out loss is not what is trained for."""
        ...

    def recover(self, progress: Progress) -> Notice | None:
        """Go back to the best weights where the epoch just finished shows that the run has diverged, and say
        so; None where it has not (the same on every rank).
        """
        ...

    def consolidate(self) -> None:
        """Move what each rank has summed to rank 0, which is the one that writes (collective)."""
        ...

    def write(self, folder: Path) -> None:
        """Save the weights to be used (best, else newest) and all that `read` needs to go on as if uncut."""
        ...

    def read(self, folder: Path) -> None:
        """Go on from a folder that `write` filled."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop needs of a training configuration."""

    patience: int
    checkpoint_seconds: float


def run_loop(
    task: Task, worker: Worker, budget: Budget, settings: LoopSettings, progress: Progress
) -> Progress:
    """Train until the budget is used, the task says so, held-out loss stops improving or a stop is asked for.

    Returns where the run ended, `ended` being "completed", "early_stop", "cancelled" or the task's verdict.
    A checkpoint of that moment has been kept.
    """
    clock = Clock(progress.elapsed_s, progress.training_s)
    sync_steps = 1 if worker.device.type == "cpu" else _GPU_SYNC_STEPS
    first_step, first_training = progress.step, progress.training_s
    saved_at = progress.elapsed_s  # not this rank's clock: ranks must save at the same steps
    shown_at = -math.inf
    elapsed = clock.elapsed()
    stopping = False

    def pace() -> Pace:
        steps, seconds = progress.step - first_step, clock.training() - first_training
        fraction = min(1.0, budget.fraction(progress.step, elapsed))
        spent = clock.elapsed() - start_elapsed
        eta = budget.left_s(progress.step, clock.elapsed(), spent / steps if steps else None)
        rate = steps / seconds if seconds > 0 else 0.0
        return Pace(
            fraction=fraction, steps_per_second=rate, eta_s=eta, elapsed_s=elapsed, training_s=seconds
        )

    def writer() -> WriteCheckpoint:
        task.consolidate()
        progress.elapsed_s, progress.training_s = clock.elapsed(), clock.training()
        return lambda folder: write_checkpoint(folder, task, progress)

    def end_epoch() -> Event:
        clock.pause()
        progress.epoch += 1
        loss = task.validate()
        if loss < progress.best_loss or (task.keeps_newest() and math.isfinite(loss)):
            progress.best_loss, progress.best_epoch, progress.epochs_since_best = loss, progress.epoch, 0
            task.keep_best()
        else:
            progress.epochs_since_best += 1
        event = task.epoch_event(progress, pace())
        progress.epoch_start_step = progress.step
        return event

    start_elapsed = clock.elapsed()
    verdict = task.verdict()  # a run that had ended by it must not go on
    while True:
        if progress.step % sync_steps == 0 or progress.step == first_step:
            elapsed, stopping = _agree(worker, clock)
        fraction = budget.fraction(progress.step, elapsed)
        if verdict:
            progress.ended = verdict
        elif stopping:
            progress.ended = "cancelled"
        elif fraction >= 1.0:
            progress.ended = "completed"
        elif settings.patience and progress.epochs_since_best >= settings.patience:
            progress.ended = "early_stop"
        if progress.ended:
            break
        clock.resume()
        task.train_step(progress.step, fraction)
        progress.step += 1
        if progress.step - progress.epoch_start_step >= budget.steps_per_epoch:
            worker.emit(end_epoch())
            if (notice := task.recover(progress)) is not None:
                worker.emit(notice)
            verdict = task.verdict()
            elapsed, stopping = _agree(worker, clock)
        elif clock.elapsed() - shown_at >= _STEP_EVENT_SECONDS:
            worker.emit(task.step_event(progress, pace()))
            shown_at = clock.elapsed()
        if elapsed - saved_at >= settings.checkpoint_seconds and not stopping:
            clock.pause()
            worker.checkpoint(task.step_event(progress, pace()), writer())
            saved_at = elapsed

    clock.pause()
    last: Event = Notice(level="info", message=f"Training ended: {progress.ended.replace('_', ' ')}.")
    if progress.ended == "cancelled":
        if progress.epoch == 0:
            task.validate()  # a model that can be used needs its figures; the resumed epoch is left as it is
    elif progress.step > progress.epoch_start_step:
        last = end_epoch()  # a budget of minutes ends inside an epoch
        progress.ended = task.verdict() or progress.ended
    worker.checkpoint(last, writer())
    return progress


def write_checkpoint(folder: Path, task: Task, progress: Progress) -> None:
    """Fill `folder` with the task's state and then the loop's, whose file marks it as complete."""
    task.write(folder)
    checkpoint.write_json(folder / "progress.json", asdict(progress))


def read_checkpoint(folder: Path, task: Task) -> Progress:
    """Give the task its state back; where the run goes on. Raises CheckpointError on a damaged folder."""
    task.read(folder)
    values = checkpoint.read_json(folder / "progress.json")
    if values.get("best_loss") is None:
        values["best_loss"] = math.inf  # JSON has no infinity
    progress = checkpoint.guarded(folder / "progress.json", lambda: Progress(**values))
    progress.ended = ""
    return progress


def restore(worker: Worker, task: Task) -> Progress:
    """The progress of the newest checkpoint, or of a run that has not begun."""
    folder = worker.restore()
    return read_checkpoint(folder, task) if folder is not None else Progress()


def _agree(worker: Worker, clock: Clock) -> tuple[float, bool]:
    """Rank 0's elapsed seconds, and whether any rank was asked to stop."""
    elapsed, stop = clock.elapsed(), worker.stop_requested()
    if worker.world_size == 1:
        return elapsed, stop
    shared = torch.tensor([elapsed if worker.rank == 0 else 0.0, float(stop)], dtype=torch.float64)
    shared = worker.all_reduce(shared.to(worker.device))
    first, stops = shared.tolist()
    return first, stops > 0
