"""The health rule in a real run: many codes, little audio, re-seeding off, and a rate at which codes die."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.events.records import Event, TrainingCompleteEvent, VQEpochMetrics
from distill_ray.training import checkpoint
from distill_ray.training.loop import Pace, Progress
from distill_ray.training.vqvae import VQTask, train_vqvae
from distill_ray.training.worker import LocalWorker, StopFlag
from distill_ray.vqvae import VQVAE, HealthRule

CPU = torch.device("cpu")
Config = Callable[..., VQTrainConfig]
COLLAPSING: dict[str, object] = {
    "model__codebook_size": 64,
    # What keeps codebooks in use by default is turned off.
    "model__reseed_threshold": 0.0,
    "model__codebook_lookup": "cosine",
    "model__codebook_decay": 0.99,
    "model__commitment_weight": 0.25,
    "model__quantizer_dropout": 0.0,
    "training__lr": 0.1,
    "training__muon_rate": 0.0,
    "training__beta1": 0.8,
    "training__beta2": 0.99,
    "training__clip_norm": 5.0,
    "loss__waveform": 10.0,
    "loss__phase_hz": 4_000.0,
    "training__batch_size": 8,
    "training__epochs": 4,
    "health__stop": True,
    "health__floor": 0.3,
    "health__patience": 2,
    "health__warmup": 1,
}


@dataclass
class Run:
    completed: TrainingCompleteEvent
    epochs: list[VQEpochMetrics]
    folder: Path


def train(corpus: Corpus, config: VQTrainConfig, folder: Path, *, cut_after: int = 0) -> Run:
    """Train; asks to stop, as Ctrl-C would, after the epoch `cut_after`."""
    stop, epochs = StopFlag(), []

    def listen(event: Event) -> None:
        if isinstance(event, VQEpochMetrics):
            epochs.append(event)
            if event.epoch == cut_after:
                stop.request()

    worker = LocalWorker(folder, device=CPU, listener=listen, stop=stop)
    return Run(train_vqvae(corpus.uri, config, worker), epochs, folder)


@pytest.fixture(scope="module")
def small(small_config: Config) -> Config:
    return lambda **overrides: small_config(**{**COLLAPSING, **overrides})


@pytest.fixture(scope="module")
def stopped(corpus: Corpus, small: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(corpus, small(), tmp_path_factory.mktemp("stopped"))


def timeless(completed: TrainingCompleteEvent) -> TrainingCompleteEvent:
    return replace(completed, elapsed_s=0.0)


def test_a_collapsing_run_ends_when_the_rule_says_so(stopped: Run, small: Config) -> None:
    done, reports = stopped.completed, [epoch.codebook_health for epoch in stopped.epochs]
    assert (done.exit_reason, done.epochs_completed) == ("health", 3)
    assert min(level.utilization for level in reports[0]) > 0.9
    assert [min(level.utilization for level in report) < 0.3 for report in reports[1:]] == [True, True]
    verdict = HealthRule.of(small().health).judge(reports)
    assert verdict is not None
    assert done.collapse == verdict
    assert done.collapse.reason.startswith(f"collapsed level {verdict.level}: utilization 0.")
    assert done.collapse.reason.endswith(" < 0.30 for 2 reports")
    # The weights of the best epoch are kept, as at the end of any run.
    kept = checkpoint.read_weights(stopped.folder / "latest" / "best.safetensors")
    VQVAE(small().model).load_state_dict(kept)
    assert checkpoint.read_json(stopped.folder / "latest" / "progress.json")["ended"] == "health"


def test_a_run_cut_between_two_low_reports_ends_where_an_uncut_one_does(
    corpus: Corpus, small: Config, stopped: Run, tmp_path: Path
) -> None:
    cut = train(corpus, small(), tmp_path, cut_after=2)
    assert (cut.completed.exit_reason, cut.completed.epochs_completed) == ("cancelled", 2)
    resumed = train(corpus, small(), tmp_path)
    assert [epoch.epoch for epoch in resumed.epochs] == [3]
    one, other = resumed.completed, stopped.completed
    assert timeless(replace(one, audio_seconds_per_second=other.audio_seconds_per_second)) == timeless(other)


def test_a_run_that_the_rule_has_ended_goes_on_only_without_the_rule(
    corpus: Corpus, small: Config, stopped: Run
) -> None:
    again = train(corpus, small(), stopped.folder)
    assert again.epochs == []
    assert timeless(again.completed) == timeless(stopped.completed)
    free = train(corpus, small(health__stop=False), stopped.folder)
    assert [epoch.epoch for epoch in free.epochs] == [4]
    assert (free.completed.exit_reason, free.completed.collapse) == ("completed", None)


def test_a_part_of_an_epoch_is_a_report_only_where_it_measured_enough(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    # 16 codes in batches of 4 windows of 16 frames can be measured in 17 steps; an epoch has 30.
    config = small_config(
        training__min_epoch_steps=30,
        health__stop=True,
        health__measure="entropy",
        health__floor=1.0,
        health__patience=1,
        health__warmup=1,
    )
    for steps, verdict in ((16, ""), (17, "health")):
        task = VQTask(corpus, config, LocalWorker(tmp_path / str(steps), device=CPU))
        assert task.steps_per_epoch == 30
        pace = Pace(fraction=0.5, steps_per_second=1.0, eta_s=None, elapsed_s=1.0)
        for step in range(30):
            task.train_step(step, 0.0)
        task.epoch_event(Progress(step=30, epoch=1), pace)
        assert task.verdict() == ""  # the warm-up
        for step in range(30, 30 + steps):
            task.train_step(step, 0.0)
        event = task.epoch_event(Progress(step=30 + steps, epoch=2, epoch_start_step=30), pace)
        assert isinstance(event, VQEpochMetrics)
        assert task.verdict() == verdict
