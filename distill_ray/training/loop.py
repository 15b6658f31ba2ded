"""The loop that both trainings share: budget, stop, epochs, best weights, checkpoints, resume.

A `Task` (`training/vqvae.py`, `training/prior.py`) knows its model and data; the loop knows when to do what.
Every decision that ranks must share is made from rank 0's clock, the sum of all stop flags and all-reduced
figures.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from distill_ray.events.records import Event, Notice
from distill_ray.storage.atomic import WriteCheckpoint
from distill_ray.training import checkpoint
from distill_ray.training.budget import Budget, Clock
from distill_ray.training.slow_steps import SlowSteps
from distill_ray.training.worker import Worker

_STEP_EVENT_SECONDS = 0.25
# What a run shows of its pace before it waits to be told its number of steps, and how often it asks.
_PACE_STEPS, _PACE_SECONDS, _WAIT_SECONDS = 6, 3.0, 0.05
# Ranks agree on time and stop flags this often: each agreement makes the host wait for a GPU.
_GPU_SYNC_STEPS = 10
# Steps that say nothing of a pace: a GPU's first ones compile kernels and capture a graph.
_UNSETTLED_STEPS, _GPU_UNSETTLED_STEPS = 1, 2 * _GPU_SYNC_STEPS


@dataclass(kw_only=True)
class Progress:
    """Where a run is; saved in every checkpoint. `step` counts finished steps, `epoch` finished epochs;
    `best_epoch` has the least held-out loss, `kept_epoch` the weights that are used.
    """

    step: int = 0
    epoch: int = 0
    epoch_start_step: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    kept_epoch: int = 0
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

    def settle(self, progress: Progress) -> None:
        """Choose the weights to be used: the run has ended, and its last checkpoint follows (collective)."""
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
    task: Task,
    worker: Worker,
    budget: Budget,
    settings: LoopSettings,
    progress: Progress,
    *,
    start_s: float = 0.0,
) -> Progress:
    """Train until the budget is used, the task says so, held-out loss stops improving or a stop is asked for.
    Making the task ready has taken `start_s` of its time; a run that begins makes a step all the same.

    Returns where the run ended, `ended` being "completed", "early_stop", "cancelled" or the task's verdict.
    A checkpoint of that moment has been kept.
    """
    return _Loop(task, worker, budget, settings, progress, start_s).run()


class _Loop:
    """One go of `run_loop`."""

    def __init__(
        self,
        task: Task,
        worker: Worker,
        budget: Budget,
        settings: LoopSettings,
        progress: Progress,
        start_s: float,
    ) -> None:
        self._task = task
        self._worker = worker
        self._budget = budget
        self._first_done: float | None = None
        self._steps_are_said = budget.max_steps == 0
        self._settings = settings
        self._progress = progress
        self._clock = Clock(progress.elapsed_s + start_s, progress.training_s)
        on_cpu = worker.device.type == "cpu"
        self._sync_steps = 1 if on_cpu else _GPU_SYNC_STEPS
        self._unsettled_steps = _UNSETTLED_STEPS if on_cpu else _GPU_UNSETTLED_STEPS
        self._first_step, self._first_training = progress.step, progress.training_s
        self._saved_at = progress.elapsed_s  # not this rank's clock: ranks must save at the same steps
        self._shown_at = -math.inf
        self._elapsed = self._start_elapsed = self._clock.elapsed()
        self._slow_steps = SlowSteps(on_cpu=on_cpu)
        self._stopping = False
        self._verdict = task.verdict()  # a run that had ended by it must not go on

    def run(self) -> Progress:
        progress = self._progress
        while True:
            if progress.step % self._sync_steps == 0 or progress.step == self._first_step:
                self._agree()
            self._wait_for_steps()
            fraction = self._budget.fraction(progress.step, self._elapsed)
            progress.ended = self._reason_to_end(fraction)
            if progress.ended:
                break
            self._clock.resume()
            self._task.train_step(progress.step, fraction)
            progress.step += 1
            if (notice := self._slow_steps.after_step(self._clock.training())) is not None:
                self._worker.emit(notice)
            self._after_step()
        self._finish()
        return progress

    def _wait_for_steps(self) -> None:
        """Where others say how many steps are made: do not run ahead of them once the pace has shown
        (collective).
        """
        if not self._steps_are_said or self._is_unsettled():
            return
        if self._first_done is None:
            self._first_done = self._elapsed
        shown = self._progress.step - self._first_step >= _PACE_STEPS
        seconds = self._elapsed - self._first_done
        if self._budget.max_steps != 0 or not shown or seconds < _PACE_SECONDS or self._stopping:
            return
        self._clock.pause()
        # Whoever says how many are made may know of one moment only, and would wait for this run as it waits.
        self._worker.emit(self._task.step_event(self._progress, self._pace()))
        while self._budget.max_steps == 0 and not self._stopping:
            time.sleep(_WAIT_SECONDS)
            self._agree()

    def _is_unsettled(self) -> bool:
        """Whether steps say nothing yet to whom says how many are made."""
        return self._steps_are_said and self._progress.step - self._first_step < self._unsettled_steps

    def _reason_to_end(self, fraction: float) -> str:
        """Why no further step is made; "" where one is."""
        patience = self._settings.patience
        if self._verdict:
            return self._verdict
        if self._stopping:
            return "cancelled"
        if fraction >= 1.0 and self._progress.step:
            return "completed"
        return "early_stop" if patience and self._progress.epochs_since_best >= patience else ""

    def _after_step(self) -> None:
        progress, task = self._progress, self._task
        if progress.step - progress.epoch_start_step >= self._budget.steps_per_epoch:
            self._worker.emit(self._end_epoch())
            if (notice := task.recover(progress)) is not None:
                self._worker.emit(notice)
            self._verdict = task.verdict()
            self._agree()
        elif not self._is_unsettled() and self._clock.elapsed() - self._shown_at >= _STEP_EVENT_SECONDS:
            self._worker.emit(task.step_event(progress, self._pace()))
            self._shown_at = self._clock.elapsed()
        if self._elapsed - self._saved_at >= self._settings.checkpoint_seconds and not self._stopping:
            self._clock.pause()
            self._worker.checkpoint(task.step_event(progress, self._pace()), self._writer())
            self._saved_at = self._elapsed

    def _end_epoch(self) -> Event:
        progress, task = self._progress, self._task
        self._clock.pause()
        progress.epoch += 1
        loss = task.validate()
        if loss < progress.best_loss or (task.keeps_newest() and math.isfinite(loss)):
            progress.best_loss, progress.best_epoch, progress.epochs_since_best = loss, progress.epoch, 0
            progress.kept_epoch = progress.epoch
            task.keep_best()
        else:
            progress.epochs_since_best += 1
        event = task.epoch_event(progress, self._pace())
        progress.epoch_start_step = progress.step
        return event

    def _finish(self) -> None:
        """The last figures and the last checkpoint."""
        progress, task = self._progress, self._task
        self._clock.pause()
        last: Event = Notice(level="info", message=f"Training ended: {progress.ended.replace('_', ' ')}.")
        if progress.ended == "cancelled":
            if progress.epoch == 0:
                task.validate()  # a model that can be used needs its figures; the epoch is left as it is
        elif progress.step > progress.epoch_start_step:
            last = self._end_epoch()  # a budget of minutes ends inside an epoch
            progress.ended = task.verdict() or progress.ended
        task.settle(progress)
        self._worker.checkpoint(last, self._writer(), last=True)

    def _pace(self) -> Pace:
        clock, progress = self._clock, self._progress
        steps, seconds = progress.step - self._first_step, clock.training() - self._first_training
        spent = clock.elapsed() - self._start_elapsed
        return Pace(
            fraction=min(1.0, self._budget.fraction(progress.step, self._elapsed)),
            steps_per_second=steps / seconds if seconds > 0 else 0.0,
            eta_s=self._budget.left_s(progress.step, clock.elapsed(), spent / steps if steps else None),
            elapsed_s=self._elapsed,
            training_s=seconds,
        )

    def _writer(self) -> WriteCheckpoint:
        task, progress = self._task, self._progress
        task.consolidate()
        progress.elapsed_s, progress.training_s = self._clock.elapsed(), self._clock.training()
        return lambda folder: write_checkpoint(folder, task, progress)

    def _agree(self) -> None:
        """Take rank 0's elapsed seconds and number of steps, and whether any rank was asked to stop
        (collective).
        """
        worker = self._worker
        self._elapsed, self._stopping = self._clock.elapsed(), worker.stop_requested()
        said = worker.steps_said() if self._steps_are_said else 0
        if worker.world_size > 1:
            own = [self._elapsed, float(said)] if worker.rank == 0 else [0.0, 0.0]
            sums = torch.tensor([*own, float(self._stopping)], dtype=torch.float64)
            self._elapsed, steps, stops = worker.all_reduce(sums.to(worker.device)).tolist()
            self._stopping, said = stops > 0, round(steps)
        if self._steps_are_said:
            self._budget = replace(self._budget, max_steps=said)


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
