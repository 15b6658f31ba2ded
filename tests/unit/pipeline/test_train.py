from __future__ import annotations

import errno
import functools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import read_manifest, save_model_v2
from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import open_corpus, prepare_corpus
from distill_ray.errors import CancelledError, ConfigError, CorpusError, UsageError
from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import Event, Notice, PriorEpochMetrics, RunStarted, VQEpochMetrics
from distill_ray.pipeline.train import train_code_prior, train_codec
from distill_ray.runs import workspace as results
from distill_ray.runs.reports import PriorReport
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.vqvae import VQVAE, VQVAEConfig
from distill_ray.vqvae.health import LevelHealth

PRIOR: dict[str, object] = {
    "prior.hidden_size": 16,
    "prior.num_layers": 1,
    "prior.num_heads": 2,
    "prior.context_frames": 16,
    "prior_training.epochs": 1,
    "prior_training.batch_size": 2,
    "prior_training.min_epoch_steps": 4,
}


def untrained(path: Path, **metadata: Any) -> Path:
    """A model with a codec alone."""
    config = VQVAEConfig(
        sample_rate=8_000,
        codebook_size=16,
        num_quantizers=2,
        width=16,
        latent_dim=16,
        encoder_blocks=1,
        decoder_blocks=1,
        n_fft=256,
        hop=64,
    )
    health = LevelHealth(utilization=1.0, perplexity=8.0, dead_codes=0, entropy=0.75)
    torch.manual_seed(0)
    return save_model_v2(path, VQVAE(config), metadata=metadata, codebook_health=[health, health])


@pytest.fixture(autouse=True)
def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for copies takes longer than a training here; tests/unit/runs/test_copies.py does it."""
    monkeypatch.setattr(
        "distill_ray.pipeline.train.judged_copies", lambda model, corpus, done, listener, **named: done
    )


class PriorTraining:
    """`train-prior` of one model on one corpus; keeps the events of the last call."""

    def __init__(self, folder: Path) -> None:
        source = folder / "source"
        source.mkdir()
        for number in range(4):
            noise_T = 0.1 * np.random.default_rng(number).standard_normal(4_000)
            soundfile.write(source / f"{number}.wav", noise_T, 8_000)
        prepare_corpus(
            [source], folder / "corpus", config=CorpusConfig(sample_rate=8_000, val_fraction=0.5), workers=1
        )
        self.data = str(folder / "corpus")
        self.model = untrained(folder / "m.distill")
        self.seen: list[Event] = []
        self.stops_at: type[Event] | None = None

    def __call__(self, **changes: Any) -> PriorReport:
        self.seen.clear()
        arguments: dict[str, Any] = {
            "model": self.model,
            "data": self.data,
            "overrides": PRIOR,
            "config_file": None,
            "plan": WorkerPlan(num_workers=0, gpus_per_worker=0),
            "listener": self.listen,
        }
        return train_code_prior(**{**arguments, **changes})

    def listen(self, event: Event) -> None:
        self.seen.append(event)
        if self.stops_at is not None and isinstance(event, self.stops_at):
            os.kill(os.getpid(), signal.SIGINT)

    def prior(self) -> str | None:
        """The identity of the prior that the file has."""
        part = read_manifest(self.model).prior
        return None if part is None else part.sha256


def test_a_prior_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    train = PriorTraining(tmp_path)
    assert train().exit_code == 0
    first, before = train.prior(), train.model.read_bytes()
    with pytest.raises(UsageError) as caught:
        train(data=str(tmp_path / "nowhere"))
    assert str(caught.value) == f"{train.model} already has a prior; give --overwrite to replace it"
    assert (train.model.read_bytes(), train.seen) == (before, [])
    assert train(overwrite=True, overrides={**PRIOR, "prior_training.seed": 1}).exit_code == 0
    assert train.prior() not in (None, first)


def test_minutes_that_run_shares_out_anew_are_not_warned_of(tmp_path: Path) -> None:
    train, warned = PriorTraining(tmp_path), []
    epochs = {**PRIOR, "prior_training.epochs": 3}
    for changes in ({}, {"resume": True, "minutes": lambda: 1.0}, {"resume": True, "overrides": epochs}):
        train(overwrite=True, **changes)
        said = [event.message for event in train.seen if isinstance(event, Notice)]
        warned.append(sum("the budget of this run was" in message for message in said))
    assert warned == [0, 0, 1]


def test_a_corpus_that_the_codec_was_not_trained_on_is_said(tmp_path: Path) -> None:
    train = PriorTraining(tmp_path)
    train()
    said = "this is not the corpus that the codec was trained on"
    assert [event.message.startswith(said) for event in train.seen if isinstance(event, Notice)].count(
        True
    ) == 1
    train.model = untrained(tmp_path / "own.distill", corpus={"digest": open_corpus(train.data).digest})
    train()
    assert not [event for event in train.seen if isinstance(event, Notice) and said in event.message]


def test_recordings_that_cannot_be_used_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train = PriorTraining(tmp_path)
    (tmp_path / "source" / "broken.wav").write_text("no audio")
    assert train(data=str(tmp_path / "source")).exit_code == 0
    (found,) = [event for event in train.seen if isinstance(event, RecordingsFound)]
    assert found.rows[0] == (
        "left out",
        "broken.wav",
        "it cannot be decoded: it is no audio file, or a damaged one",
    )


def test_a_stop_within_the_first_epoch_keeps_the_prior_that_is_there_and_goes_on_with_resume(
    tmp_path: Path,
) -> None:
    train = PriorTraining(tmp_path)
    train()
    first, before = train.prior(), train.model.read_bytes()
    train.stops_at = RunStarted
    with pytest.raises(CancelledError) as caught:
        train(overwrite=True, overrides={**PRIOR, "prior_training.seed": 1})
    assert str(caught.value) == (
        f"stopped within the first epoch: {train.model} and the prior that it has are as they were"
    )
    assert train.model.read_bytes() == before
    train.stops_at = None
    with pytest.raises(UsageError, match="holds an interrupted prior run of other settings; go on"):
        train()
    assert train(resume=True, overrides={}, data=None).exit_code == 0
    assert train.prior() not in (None, first)


def test_the_same_training_goes_on_by_itself_and_new_takes_its_place(tmp_path: Path) -> None:
    train = PriorTraining(tmp_path)
    train.stops_at = PriorEpochMetrics
    long = {**PRIOR, "prior_training.epochs": 3}
    assert train(overrides=long).completed.exit_reason == "cancelled"
    train.stops_at = None
    done = train(overrides=long)
    said = [event.message for event in train.seen if isinstance(event, Notice)]
    assert said[0] == (
        f"going on with the unfinished training of the prior in {tmp_path}/m.prior; --new begins another one"
    )
    (started,) = (event for event in train.seen if isinstance(event, RunStarted))
    assert (started.first_epoch, done.completed.epochs_trained) == (2, 3)
    with pytest.raises(UsageError, match="already has a prior; give --overwrite"):
        train(overrides=long)  # it is finished
    train.stops_at = PriorEpochMetrics
    assert train(overrides=long, overwrite=True).completed.exit_reason == "cancelled"
    train.stops_at = None
    assert train(overrides=long, new=True).completed.epochs_trained == 3
    (started,) = (event for event in train.seen if isinstance(event, RunStarted))
    assert started.first_epoch == 1


def test_a_prior_for_a_corpus_of_another_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    train = PriorTraining(tmp_path)
    prepare_corpus(
        [tmp_path / "source"], tmp_path / "other", config=CorpusConfig(sample_rate=16_000), workers=1
    )
    with pytest.raises(CorpusError) as caught:
        train(data=str(tmp_path / "other"))
    assert str(caught.value) == (
        f"the corpus at {tmp_path}/other is 16000 Hz mono, but the model is for 8000 Hz mono; "
        "prepare it again with --sample-rate 8000 --channels 1"
    )


def test_a_prior_s_folder_that_cannot_be_written_is_said_without_an_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    train = PriorTraining(tmp_path)
    monkeypatch.setattr(results, "folder_lock", denied)
    with pytest.raises(UsageError) as caught:
        train()
    assert str(caught.value) == (
        f"the run folder {tmp_path}/m.prior cannot be written (Permission denied); a prior's run is kept "
        "beside its model, so make that place writable or copy the model to another folder"
    )


def test_wrong_prior_settings_are_said_before_the_data_is_looked_at(tmp_path: Path) -> None:
    model = untrained(tmp_path / "m.distill")
    seen: list[Event] = []
    with pytest.raises(ConfigError) as caught:
        train_code_prior(
            model=model,
            data=str(tmp_path / "nowhere"),
            overrides={"prior.num_layers": 0, "prior_training.lr": 0.0},
            config_file=None,
            plan=WorkerPlan(num_workers=0),
            listener=seen.append,
        )
    assert [problem.flag for problem in caught.value.problems] == ["--layers", "--lr"]
    assert seen == []


def test_wrong_numbers_of_workers_and_wrong_settings_are_said_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train_codec(
            data=str(tmp_path / "nowhere"),
            overrides={"training.lr": -1.0},
            config_file=None,
            out=tmp_path / "run",
            name=None,
            resume=None,
            plan=WorkerPlan(num_workers=-2, gpus_per_worker=-1.0),
            listener=lambda event: None,
        )
    flags = [problem.flag for problem in caught.value.problems]
    assert flags == ["--num-workers", "--gpus-per-worker", "--lr"]


def test_a_prepared_corpus_keeps_its_split(tmp_path: Path) -> None:
    training = PriorTraining(tmp_path)
    with pytest.raises(ConfigError, match="is a prepared corpus, which keeps the split") as refused:
        training(overrides={**PRIOR, "corpus.val_fraction": 0.3})
    assert [each.flag for each in refused.value.problems] == ["--val-fraction"]


def empty_page(folder: Path, listener: Any, **more: Any) -> Path:
    """In place of `report_run`, which takes seconds."""
    (folder / "report.html").touch()
    return folder / "report.html"


def test_a_training_that_lacks_its_page_goes_on_with_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was killed once its model was there, or was begun with --no-report."""
    monkeypatch.setattr("distill_ray.pipeline.train.report_run", empty_page)
    training = PriorTraining(tmp_path)
    whole = training()
    page, made = tmp_path / "m.prior" / "report.html", training.prior()
    assert not page.exists()
    again = training(report=True)
    assert again.report_path == page
    assert page.exists()
    assert (again.completed.steps, training.prior()) == (whole.completed.steps, made)
    assert [event for event in training.seen if isinstance(event, PriorEpochMetrics)] == []
    going_on = [event.message for event in training.seen if isinstance(event, Notice)]
    assert any("going on with the unfinished training of the prior" in message for message in going_on)
    with pytest.raises(UsageError, match="already has a prior; give --overwrite"):
        training(report=True)  # now it is finished


def test_a_codec_that_lacks_its_page_goes_on_with_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_ray.pipeline.train.report_run", empty_page)
    monkeypatch.chdir(tmp_path)
    data, seen = PriorTraining(tmp_path).data, []
    small = {"width": 16, "latent_dim": 16, "encoder_blocks": 1, "decoder_blocks": 1, "n_fft": 128, "hop": 32}
    fixed = {"codebook_size": 16, "num_quantizers": 2, "purpose": "compression"}
    short = {"epochs": 1, "batch_size": 2, "min_epoch_steps": 2, "window_seconds": 0.2}
    train = functools.partial(
        train_codec,
        data=data,
        overrides={f"model.{key}": value for key, value in {**small, **fixed}.items()}
        | {f"training.{key}": value for key, value in short.items()},
        config_file=None,
        out=None,
        name="m",
        resume=None,
        plan=WorkerPlan(num_workers=0, gpus_per_worker=0),
        listener=seen.append,
    )
    first = train()
    again = train(report=True)
    assert (first.output_dir, again.output_dir) == (tmp_path / "runs" / "m",) * 2
    assert again.report_path == tmp_path / "runs" / "m" / "report.html"
    assert [type(event) for event in seen].count(VQEpochMetrics) == 1
    assert train().output_dir == train(report=True).output_dir.with_name("m-2")
