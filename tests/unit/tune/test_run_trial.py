from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from distill_ray.config.sweep import SweepConfig
from distill_ray.config.vqvae import AugmentConfig, LossConfig, TrainingConfig, VQTrainConfig, VQVAEConfig
from distill_ray.events.records import Event, Notice
from distill_ray.runs.run_folder import RunFolder
from distill_ray.runtime import metrics
from distill_ray.training.worker import Worker
from distill_ray.vqvae.health import reports

CONFIG = VQTrainConfig(
    model=VQVAEConfig(), training=TrainingConfig(epochs=1), loss=LossConfig(), augment=AugmentConfig()
)


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_tell_the_trials_of_two_searches_apart(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str | None] = []
    from distill_ray.tune import run_trial as trial
    from distill_ray.tune.run_trial import TrialHome, TrialTask

    heard: list[Event] = []
    said = Notice(level="info", message="begun")

    class Recorded:
        def __init__(self, *, run: str | None) -> None:
            runs.append(run)

        def __call__(self, event: Event) -> None:
            heard.append(event)

    class Run:
        """Stands in for the Ray Train run of a trial with more workers."""

        def __init__(self, loop: Any, *, listener: Any, **others: Any) -> None:
            self.listener = listener

        def train(self) -> None:
            self.listener(said)

    def loop(worker: Worker) -> Event:
        worker.emit(said)
        return said

    monkeypatch.delenv("DISTILL_RAY_METRICS", raising=False)
    monkeypatch.setattr(metrics, "RayMetrics", Recorded)
    monkeypatch.setattr("distill_ray.runtime.ddp.DDPRun", Run)
    monkeypatch.setattr(trial.ray, "get_runtime_context", lambda: type("Context", (), {"gcs_address": ""}))
    monkeypatch.setattr(trial.ray, "cluster_resources", dict)
    task = TrialTask(
        trial="k16-q2",
        config=CONFIG,
        depths=(2,),
        loop=loop,
        folder=RunFolder(path=tmp_path),
        compared=True,
    )
    home = TrialHome(
        name="birds",
        mailbox=None,
        sweep=SweepConfig(),
        gpus=0.0,
        workers=workers,
        threads=1,
        session_folder=None,
        listener=None,
    )
    outbox: Any = None
    trial._train_in(task, home, [].append, outbox)
    assert runs == ["birds/k16-q2"]
    assert heard == [said]


def test_epochs_of_a_checkpoint_keep_their_number_and_say_which_of_them_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_ray.tune import run_trial as trial

    level = {"utilization": 0.5, "perplexity": 2.0, "dead_codes": 1, "entropy": None}
    history = [{"codebook_health": [level], **more} for more in ({}, {"measured": False}, {"measured": True})]
    (tmp_path / "run.json").write_text(json.dumps({"history": history}))
    monkeypatch.setattr(trial, "newest_checkpoint", lambda *_: tmp_path)
    epochs = trial.epochs_before(RunFolder(path=tmp_path))
    assert [epoch.measured for epoch in epochs] == [True, False, True]
    assert len(reports(epochs)) == 2
    assert math.isnan(epochs[1].levels[0].entropy)
    (tmp_path / "run.json").write_text('{"history": [{}]}')
    assert trial.epochs_before(RunFolder(path=tmp_path)) == []
