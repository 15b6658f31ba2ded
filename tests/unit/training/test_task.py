from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.events.records import Notice, TrainingCompleteEvent, VQStepMetrics
from distill_ray.training import vqvae
from distill_ray.training.loop import Pace, Progress
from distill_ray.training.optimizer import lr_scale
from distill_ray.training.task import Figures
from distill_ray.training.vqvae import VQTask, train_vqvae
from distill_ray.training.worker import LocalWorker

CPU = torch.device("cpu")
Config = Callable[..., VQTrainConfig]


def test_another_budget_for_a_resumed_run_is_said_once(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    def train(epochs: int) -> tuple[TrainingCompleteEvent, list[str]]:
        said: list[str] = []
        worker = LocalWorker(
            tmp_path,
            device=CPU,
            listener=lambda event: said.append(event.message) if isinstance(event, Notice) else None,
        )
        config = small_config(training__epochs=epochs, training__batch_size=8, training__lr=1e-3)
        return train_vqvae(corpus.uri, config, worker), [text for text in said if "budget" in text]

    first, said = train(1)
    assert said == []
    again, said = train(1)
    assert said == []
    longer, said = train(2)
    # At the end of one epoch the rate was at its floor; of two epochs half is left.
    before, after = (1e-3 * lr_scale(first.steps, used, warmup_steps=4) for used in (1.0, 0.5))
    assert after > 20 * before
    assert said == [
        "the budget of this run was 1 epoch and became 2 epochs: the learning rate followed the new one and "
        f"went on from {after:.2g}, where it was {before:.2g}"
    ]
    assert said[0] in longer.warnings
    assert (again.warnings, longer.epochs_completed) == (first.warnings, 2)
    assert train(2)[1] == []


def test_the_share_of_time_that_the_data_takes(
    corpus: Corpus, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = VQTask(corpus, small_config(), LocalWorker(tmp_path, device=CPU))
    ticks = itertools.count()
    # A clock that goes on by half a second whenever it is read: once before a batch and once after it.
    monkeypatch.setattr(vqvae, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 2))

    def share(training_s: float) -> float:
        pace = Pace(fraction=0.1, steps_per_second=1.0, eta_s=None, elapsed_s=99.0, training_s=training_s)
        event = task.step_event(Progress(step=3), pace)
        assert isinstance(event, VQStepMetrics)
        return event.data_wait_share

    assert share(0.0) == 0.0  # before the first step of a run that has just been resumed
    for step in range(3):
        task.train_step(step, 0.0)
    assert share(training_s=6.0) == 0.25


def test_no_loss_is_said_to_be_0_right_after_an_epoch(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    """A checkpoint that is due then comes with a step's event of no steps."""
    task = VQTask(corpus, small_config(), LocalWorker(tmp_path, device=CPU))
    pace = Pace(fraction=0.1, steps_per_second=1.0, eta_s=None, elapsed_s=9.0, training_s=6.0)
    task.figures.train_loss = 2.5
    event = task.step_event(Progress(step=3, epoch_start_step=3), pace)
    assert isinstance(event, VQStepMetrics)
    assert (event.epoch_step, event.loss, event.losses) == (0, 2.5, {})


def test_figures_survive_json_which_has_no_nan() -> None:
    figures = Figures(train_loss=2.0, warnings=["w"])
    read = Figures.from_json(
        {"train_loss": 2.0, "val_loss": None, "warnings": ["w"], "history": [], "config": {}}
    )
    assert (read.train_loss, read.warnings) == (figures.train_loss, figures.warnings)
    assert read.val_loss != read.val_loss
