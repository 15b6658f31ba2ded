"""What the two trainings share: figures, best weights, checkpoints, and a run from its start to its end.

`vqvae.py` and `prior.py` derive their tasks from `ModelTask` and hand them to `run_task`; `loop.py` decides
which call is made when.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.resolve import dotted
from distill_ray.config.vqvae import TrainingConfig, VQTrainConfig
from distill_ray.errors import TrainingError
from distill_ray.events.records import (
    Event,
    Notice,
    PriorTrainingCompleteEvent,
    RunStarted,
    ShownSetting,
    TrainingCompleteEvent,
)
from distill_ray.storage.checkpoints import MODEL_FILES
from distill_ray.training import checkpoint
from distill_ray.training.budget import Budget
from distill_ray.training.loop import LoopSettings, Pace, Progress, restore, run_loop
from distill_ray.training.optimizer import Optimizer, lr_scale, uses_bf16
from distill_ray.training.worker import Worker

CompletedT = TypeVar("CompletedT", TrainingCompleteEvent, PriorTrainingCompleteEvent)

_NO_HELD_OUT = (
    "nothing is held out: the best epoch is chosen on the training files; add recordings, or prepare them "
    "into a new corpus with a --val-fraction that holds out a file, or 2 s of a single one"
)


@dataclass(kw_only=True)
class Figures:
    """What a run has measured so far; saved in `run.json`, from which the .distill file is written."""

    train_loss: float = math.nan
    val_loss: float = math.nan
    warnings: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        known = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, **nan_for_null({name: known[name] for name in ("train_loss", "val_loss")})})


def nan_for_null(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as they were before JSON, which has null for NaN."""
    return {name: math.nan if value is None else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much data a run trains on and holds out."""

    train_files: int
    train_seconds: float
    val_files: int
    val_seconds: float


class ModelTask(ABC, Generic[CompletedT]):
    """A model in training on one rank: the loop's `Task` without the training itself.

    `kept` is the module whose weights are validated and saved: the model or an average of it. `sums` are what
    this rank has summed over the steps of the epoch so far; the others are divided by the last one.
    """

    config: VQTrainConfig | PriorTrainConfig
    figures: Figures
    steps_per_epoch: int

    def __init__(
        self,
        config: VQTrainConfig | PriorTrainConfig,
        worker: Worker,
        *,
        model: nn.Module,
        kept: nn.Module,
        no_decay: Iterable[nn.Parameter],
        figures: Figures,
        sums: int,
        matrices: Iterable[Tensor] = (),
        muon_rate: float = 0.0,
        head: Iterable[nn.Parameter] = (),
        head_rate: float = 1.0,
    ) -> None:
        training = config.training
        self.config = config
        self.worker = worker
        self.model = model
        self.kept = kept
        self.figures = figures
        self.bf16 = uses_bf16(training.precision, worker.device)
        self.optimizer = Optimizer(
            model,
            lr=training.lr,
            betas=(training.beta1, training.beta2),
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
            no_decay=no_decay,
            matrices=matrices,
            muon_rate=muon_rate,
            head=head,
            head_rate=head_rate,
            bf16=self.bf16,
        )
        self.best: dict[str, Tensor] | None = None
        self.opening: list[Notice] = []  # told once the run has begun
        self.resumed_budget: Budget | None = None
        self.sums = torch.zeros(sums, device=worker.device)
        self.grad_norm = torch.zeros((), device=worker.device)

    @abstractmethod
    def train_step(self, step: int, fraction: float) -> None: ...

    @abstractmethod
    def step_event(self, progress: Progress, pace: Pace) -> Event: ...

    @abstractmethod
    def validate(self) -> float: ...

    @abstractmethod
    def epoch_event(self, progress: Progress, pace: Pace) -> Event: ...

    @abstractmethod
    def completed(self, progress: Progress) -> CompletedT:
        """The figures of the run as it ended (collective)."""

    def verdict(self) -> str:
        return ""

    def keeps_newest(self) -> bool:
        return False

    def recover(self, progress: Progress) -> Notice | None:
        return None

    def settle(self, progress: Progress) -> None:
        return

    def keep_best(self) -> None:
        self.best = {name: value.detach().clone() for name, value in self.kept.state_dict().items()}

    def warn(self, message: str) -> Notice:
        """A warning now and, once, in the final report."""
        if message not in self.figures.warnings:
            self.figures.warnings.append(message)
        return Notice(level="warning", message=message)

    def budget(self) -> Budget:
        training = self.config.training
        return Budget(
            steps_per_epoch=self.steps_per_epoch,
            epochs=training.epochs,
            max_minutes=training.max_minutes,
            max_steps=training.max_steps if isinstance(training, TrainingConfig) else None,
        )

    def lr_scale(self, step: int, fraction: float) -> float:
        """The learning rate over its peak."""
        return lr_scale(step, fraction, warmup_steps=self.config.training.warmup_steps)

    def take_sums(self, progress: Progress, *, advice: str) -> list[float]:
        """The sums of all ranks over the finished epoch, which end with it (collective).

        Raises TrainingError, with `advice`, where no step of the epoch was sound.
        """
        sums: list[float] = self.worker.all_reduce(self.sums.double()).tolist()
        if sums[-1] == 0:
            raise TrainingError(
                f"all steps of epoch {progress.epoch} were skipped because their gradients were not finite; "
                f"{advice}"
            )
        self.sums.zero_()
        return sums

    def consolidate(self) -> None:
        total = self.worker.all_reduce(self.sums)
        if self.worker.rank != 0:
            total.zero_()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside figures and best weights."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "has_best": self.best is not None,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave rank 0."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.copy_(state["sums"] if self.worker.rank == 0 else torch.zeros_like(self.sums))

    def write(self, folder: Path) -> None:
        weights, figures = MODEL_FILES
        checkpoint.write_weights(folder / weights, self.best or self.kept.state_dict())
        checkpoint.write_json(folder / figures, {**asdict(self.figures), "config": dotted(self.config)})
        checkpoint.write_state(folder / "state.pt", self.state())

    def read(self, folder: Path) -> None:
        state = checkpoint.read_state(folder / "state.pt", self.worker.device)
        figures = checkpoint.read_json(folder / "run.json")
        best = checkpoint.read_weights(folder / "best.safetensors")

        def load() -> None:
            self.load_state(state)
            self.figures = type(self.figures).from_json(figures)
            table, recorded = self.config.training.table, figures["config"]
            self.resumed_budget = replace(
                self.budget(),
                epochs=recorded[f"{table}.epochs"],
                max_minutes=recorded[f"{table}.max_minutes"],
                max_steps=recorded.get(f"{table}.max_steps"),
            )

        checkpoint.guarded(folder / "state.pt", load)
        if state["has_best"]:
            self.best = {name: value.to(self.worker.device) for name, value in best.items()}


def _new_budget(task: ModelTask[CompletedT], progress: Progress) -> str:
    """The cosine follows the budget, so that another one makes the rate jump where the run goes on."""
    old, new = task.resumed_budget, task.budget()
    assert old is not None
    before, after = (
        task.config.training.lr
        * task.lr_scale(progress.step, min(1.0, each.fraction(progress.step, progress.elapsed_s)))
        for each in (old, new)
    )
    return (
        f"the budget of this run was {old} and became {new}: the learning rate followed the new one "
        f"and went on from {after:.2g}, where it was {before:.2g}"
    )


def run_task(
    task: ModelTask[CompletedT],
    *,
    kind: str,
    name: str,
    output_dir: str,
    settings: tuple[ShownSetting, ...],
    amounts: Amounts,
    began: float,
    tells_budget: bool = True,
) -> CompletedT:
    """Train from the worker's newest checkpoint, or from the start, to the end; every rank calls it. `began`,
    by `time.monotonic`: when the task began to be made, which counts as a part of its time. tells_budget:
    whether to warn of another budget than before, which is no news where nobody has asked for one.
    """
    worker, training = task.worker, task.config.training
    progress = restore(worker, task)
    worker.emit(
        RunStarted(
            kind=kind,
            name=name,
            output_dir=output_dir,
            device=str(worker.device),
            world_size=worker.world_size,
            parameters=sum(parameter.numel() for parameter in task.model.parameters()),
            epochs=training.epochs,
            max_minutes=training.max_minutes,
            steps_per_epoch=task.steps_per_epoch,
            first_epoch=progress.epoch + 1,
            settings=settings,
            **asdict(amounts),
        )
    )
    for notice in task.opening:
        worker.emit(notice)
    if not amounts.val_files:
        worker.emit(task.warn(_NO_HELD_OUT))
    budget = task.budget()
    if tells_budget and task.resumed_budget not in (None, budget) and budget.max_steps is None:
        worker.emit(task.warn(_new_budget(task, progress)))
    loop_settings = LoopSettings(patience=training.patience, checkpoint_seconds=training.checkpoint_seconds)
    start_s = time.monotonic() - began
    done = run_loop(task, worker, budget, loop_settings, progress, start_s=start_s)
    completed = task.completed(done)
    worker.emit(completed)
    return completed
