"""Corpora, runs and models at s3:// URIs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distill_ray.bundle import load_model_v2
from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import open_corpus, prepare_corpus
from distill_ray.display import trial_listener
from distill_ray.errors import CorpusError, DistillError, StorageError, UsageError
from distill_ray.events.records import Event, Notice, PriorEpochMetrics, VQEpochMetrics
from distill_ray.pipeline.run import PipelineReport, run_everything
from distill_ray.pipeline.train import train_code_prior, train_codec
from distill_ray.runs import workspace as results
from distill_ray.runs.reports import CodecReport
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.storage import uploaded
from distill_ray.storage.checkpoints import working_folder
from distill_ray.storage.storage import open_storage
from distill_ray.storage.uploaded import POINTER

RATE = 8_000
TRIED_AGAIN = "the attempts (went on|to upload)"
SMALL: dict[str, object] = {
    "corpus.sample_rate": RATE,
    "model.codebook_size": 16,
    "model.num_quantizers": 2,
    "model.width": 16,
    "model.encoder_blocks": 1,
    "model.decoder_blocks": 1,
    "model.latent_dim": 16,
    "model.n_fft": 256,
    "model.hop": 64,
    "training.batch_size": 16,
    "training.window_seconds": 0.25,
    "training.epochs": 3,
    "training.min_epoch_steps": 4,
    "training.warmup_steps": 4,
    "training.lr": 3e-5,  # one process and two ranks differ by rounding, of which greater steps make more
    "training.val_seconds": 1.0,
}
PRIOR: dict[str, object] = {
    "prior.hidden_size": 32,
    "prior.num_layers": 1,
    "prior.num_heads": 2,
    "prior.context_frames": 32,
    "prior_training.epochs": 1,
    "prior_training.min_epoch_steps": 4,
}


@pytest.fixture(scope="module")
def corpus(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(6):
        rng = np.random.default_rng(number)
        time_T = np.arange(round(1.5 * RATE)) / RATE
        tone_T = np.sin(2 * np.pi * 110 * 2 ** rng.uniform(0, 3) * time_T) * np.exp(-(time_T * 3 % 1.0) * 4)
        soundfile.write(
            folder / f"{number}.wav", 0.3 * tone_T + 0.02 * rng.standard_normal(len(time_T)), RATE
        )
    uri = "s3://bucket/corpus"
    config = CorpusConfig(sample_rate=RATE, val_fraction=0.3)
    report = prepare_corpus([folder], uri, config=config, workers=1)
    assert (report.out, report.files) == (uri, 6)
    again = prepare_corpus([folder], uri, config=config, workers=1)
    assert (again.digest, again.decoded) == (report.digest, 0)
    return uri


def train(
    data: str,
    *,
    out: str | None = None,
    resume: str | None = None,
    workers: int = 0,
    listener: Callable[[Event], None] = lambda event: None,
    **settings: object,
) -> CodecReport:
    given = {key.replace("__", "."): value for key, value in settings.items()}
    overrides = {} if resume else {"model.size": "tiny"} | SMALL | given
    return train_codec(
        data=data,
        overrides=overrides,
        config_file=None,
        out=out,
        name=None if resume else "m",
        resume=resume,
        plan=WorkerPlan(num_workers=workers, gpus_per_worker=0),
        listener=listener,
    )


def losses(report: CodecReport) -> tuple[float, ...]:
    done = report.completed
    return (done.final_train_loss, done.final_val_loss, done.best_val_loss)


@pytest.fixture(scope="module")
def uncut(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, ...]:
    """The losses of the run that all others here are the same as."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return losses(train(corpus, out=str(tmp_path_factory.mktemp("uncut") / "run")))


def at_epoch(number: int, action: Callable[[], object]) -> Callable[[Event], None]:
    def listener(event: Event) -> None:
        if isinstance(event, VQEpochMetrics) and event.epoch == number:
            action()

    return listener


def names(uri: str) -> list[str]:
    return sorted(open_storage(uri).files())


def pointer(run: str) -> str:
    content = open_storage(run).read_bytes(f"checkpoints/{POINTER}")
    assert content is not None
    return str(json.loads(content)["name"])


def test_a_run_from_and_to_s3_downloads_each_shard_once_a_machine(
    s3: Any, corpus: str, uncut: tuple[float, ...], cache: Path
) -> None:
    shards = len(open_corpus(corpus).manifest.shards)
    s3.requests.clear()
    first = train(corpus, out="s3://bucket/first")
    loaded = [path for method, path in s3.requests if method == "GET" and "/shards/" in path]
    assert len(loaded) == shards

    s3.requests.clear()
    second = train(corpus, out="s3://bucket/second")
    assert [path for method, path in s3.requests if method == "GET" and "/shards/" in path] == []

    assert losses(first) == losses(second) == uncut
    assert first.to_json()["output_dir"] == "s3://bucket/first"
    assert first.to_json()["model_path"] == "s3://bucket/first/m.distill"
    newest = pointer("s3://bucket/first")
    there = names("s3://bucket/first")
    heard = [name for name in there if "samples/" in name]
    assert {Path(name).name.partition("-")[0].partition(".")[0] for name in heard} == {
        "original",
        "decoded",
        "events",
    }
    assert [name for name in there if name not in heard] == sorted(
        [
            "checkpoints/latest.json",
            *(f"checkpoints/{newest}/{file}" for file in ("best.safetensors", "name", "progress.json")),
            *(f"checkpoints/{newest}/{file}" for file in ("run.json", "state.pt")),
            "m.distill",
            "run.toml",
        ]
    )
    assert not any(path.is_file() for path in (cache / "distill-ray" / "runs").rglob("*"))


def test_a_run_that_was_stopped_goes_on_on_another_machine(
    s3: Any, corpus: str, uncut: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "s3://bucket/stopped"
    stopped = train(corpus, out=run, listener=at_epoch(1, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert stopped.exit_code == 3
    assert stopped.completed.epochs_completed == 1

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    with pytest.raises(UsageError, match=rf"{run} already holds a run; go on with it \(--resume {run}\)"):
        train(corpus, out=run, training__seed=1)
    said: list[Event] = []
    resumed = train(corpus, out=run, listener=said.append)
    assert losses(resumed) == uncut
    assert any(
        isinstance(event, Notice) and "going on with the unfinished" in event.message for event in said
    )

    (tmp_path / "fetched").mkdir()
    open_storage(run).download("m.distill", tmp_path / "fetched" / "m.distill")
    assert load_model_v2(tmp_path / "fetched" / "m.distill").vqvae_config.codebook_size == 16

    model = f"{run}/m.distill"
    report = train_code_prior(
        model=model,
        data=corpus,
        overrides=PRIOR,
        config_file=None,
        plan=WorkerPlan(num_workers=0, gpus_per_worker=0),
        listener=lambda event: None,
    )
    assert report.to_json()["model_path"] == model
    assert f"{pointer(f'{run}/m.prior')}/state.pt" in "".join(names(f"{run}/m.prior"))
    open_storage(run).download("m.distill", tmp_path / "fetched" / "m.distill")
    assert load_model_v2(tmp_path / "fetched" / "m.distill").prior is not None


def test_an_outage_while_training_costs_nothing(s3: Any, corpus: str, uncut: tuple[float, ...]) -> None:
    run = "s3://bucket/outage"
    said: list[Notice] = []

    def back() -> None:
        time.sleep(3)  # until an upload has been tried, however short an epoch is
        s3.start()

    def listener(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event)
        at_epoch(1, s3.stop)(event)
        at_epoch(2, back)(event)

    report = train(corpus, out=run, listener=listener, training__checkpoint_seconds=0.01)
    assert losses(report) == uncut
    assert "m.distill" in names(run)
    warnings = [notice.message for notice in said if notice.level == "warning"]
    assert any(re.search(TRIED_AGAIN, message) for message in warnings), said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_outage_of_half_a_minute_costs_no_step(
    s3: Any, corpus: str, tmp_path: Path, faulty: Any, row: Callable[..., None]
) -> None:
    quiet = train(corpus, out=str(tmp_path / "quiet"), training__epochs=14)
    said: list[tuple[float, Event]] = []
    down: list[float] = []
    up: list[float] = []

    def end_of_outage() -> None:
        s3.start()
        up.append(time.time())

    def listener(event: Event) -> None:
        said.append((time.time(), event))
        if isinstance(event, VQEpochMetrics) and event.epoch == 1:
            s3.stop()
            down.append(time.time())
            threading.Timer(30.0, end_of_outage).start()
        if isinstance(event, VQEpochMetrics) and not up:
            time.sleep(3.0)  # or the training would be over before the outage

    run = "s3://bucket/long"
    report = train(corpus, out=run, listener=listener, training__epochs=14, training__checkpoint_seconds=0.01)
    notices = [(when, event) for when, event in said if isinstance(event, Notice)]
    noticed = next(when for when, event in notices if re.search(TRIED_AGAIN, event.message))
    again = next(when for when, event in notices if "has the newest checkpoint again" in event.message)
    assert up[0] - down[0] >= 30.0
    assert down[0] < noticed < up[0] < again
    trained = [event.epoch for when, event in said if isinstance(event, VQEpochMetrics)]
    assert trained == list(range(1, 15))
    assert losses(report) == losses(quiet)
    assert open_storage(run).read_bytes("m.distill") is not None
    recovery = faulty.Recovery(noticed_s=noticed - down[0], resumed_s=again - down[0], lost_steps=0)
    final, whole = ({"final_val_loss": each.completed.final_val_loss} for each in (report, quiet))
    row("the storage (S3) away for 30 s (uploads again)", recovery, final, whole)


def test_what_could_not_be_uploaded_stays_and_is_by_resuming(
    s3: Any, corpus: str, uncut: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "s3://bucket/out-to-the-end"
    with monkeypatch.context() as patch:
        patch.setattr(results, "_PATIENCE_S", 0.5)
        patch.setattr(uploaded, "PATIENCE_S", 0.5)
        try:
            with pytest.raises(StorageError) as caught:
                train(corpus, out=run, listener=at_epoch(1, s3.stop))
        finally:
            s3.start()
    kept = working_folder(run)
    assert f"what was made is kept in {kept} on this machine, where --resume {run} uploads it" in str(
        caught.value
    )
    model = (kept / "m.distill").read_bytes()
    assert "m.distill" not in names(run)

    assert losses(train(corpus, resume=run)) == uncut
    assert open_storage(run).read_bytes("m.distill") is not None
    assert len(open_storage(run).read_bytes("m.distill") or b"") == len(model)


@pytest.fixture
def read_only(s3: Any) -> Iterator[dict[str, str]]:
    """The keys of somebody who may read only, while the server looks at keys."""
    iam = s3.client("iam")
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    policy = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*", "s3:Head*"], "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
    iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
        yield {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def refused(out: str, data: str) -> str:
    with pytest.raises(DistillError) as caught:
        train(data, out=out)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_what_cannot_be_written_is_said_before_anything_is_done(
    s3: Any, corpus: str, read_only: dict[str, str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    wrong = refused("s3://bucket/x", corpus)
    assert "cannot write the results at s3://bucket/x: the server refuses the credentials" in wrong
    for name, value in read_only.items():
        monkeypatch.setenv(name, value)
    assert open_corpus(corpus).manifest.files
    assert "ACCESS_DENIED" in refused("s3://bucket/x", corpus)
    assert not cache.exists() or not any((cache / "distill-ray").glob("runs/*"))


def test_no_bucket_no_server_and_a_file(s3: Any, corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no bucket nowhere" in refused("s3://nowhere/x", corpus)
    assert "is a file; give a folder" in refused(f"{corpus}/distill-corpus.json", corpus)
    assert "has credentials in it" in refused("s3://key:secret@bucket/x", corpus)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        message = refused("s3://bucket/x", corpus)
        assert "the server does not answer" in message
        assert "look at AWS_ENDPOINT_URL" in message
        with pytest.raises(CorpusError, match="the server does not answer"):
            open_corpus(corpus)


class Cut(BaseException):
    """A machine that is lost: nothing may catch it."""


def pipeline(sources: list[str], listener: Callable[[Event], None], **changes: object) -> PipelineReport:
    sampled = {"generate.count": 1, "generate.seconds": 0.25}
    arguments: dict[str, Any] = {
        "sources": sources,
        "overrides": SMALL | PRIOR | sampled,
        "config_file": None,
        "out": "s3://bucket/pipeline",
        "name": "m",
        "default_name": "m",
        "resume": None,
        "tune": False,
        "plan": WorkerPlan(num_workers=0),
        "address": None,
        "listener": listener,
        "trial_listener": trial_listener,
    }
    return run_everything(**{**arguments, **changes})


def test_a_whole_pipeline_goes_on_on_another_machine(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = tmp_path / "in"
    sounds.mkdir()
    for number in range(3):
        noise = 0.1 * np.random.default_rng(number).standard_normal(RATE)
        soundfile.write(sounds / f"{number}.wav", noise, RATE)

    def cut(event: Event) -> None:
        if isinstance(event, PriorEpochMetrics):
            raise Cut

    with pytest.raises(Cut):
        pipeline([str(sounds)], cut)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    s3.requests.clear()
    empty = {"sources": [], "overrides": {}, "out": None, "name": None}
    done = pipeline(**empty, resume="s3://bucket/pipeline", listener=lambda event: None)
    loaded = [path for method, path in s3.requests if method == "GET" and "/shards/" in path]
    assert len(loaded) == 1, "for the codes; the corpus is no part of what a run brings here"
    assert [stage.state for stage in done.stages] == ["skipped", "skipped", "done", "done"]
    assert done.model_path == "s3://bucket/pipeline/m.distill"
    assert done.samples == ("s3://bucket/pipeline/samples/sample_s0_000.wav",)
    assert done.to_json()["codec"]["model_path"] == "s3://bucket/pipeline/codec/m.distill"
    there = names("s3://bucket/pipeline")
    assert {"m.distill", "pipeline.json", "samples/sample_s0_000.wav", "codec/m.distill"} <= set(there)
    assert not any(path.is_file() for path in (tmp_path / "other" / "distill-ray" / "runs").rglob("*"))


@pytest.mark.slow
def test_two_ray_workers_keep_their_checkpoints_there(
    s3: Any, corpus: str, uncut: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "s3://bucket/ray"
    s3.requests.clear()
    stopped = train(
        corpus, out=run, workers=2, listener=at_epoch(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    )
    assert stopped.exit_code == 3
    loaded = [path for method, path in s3.requests if method == "GET" and "/shards/" in path]
    assert len(loaded) == len(open_corpus(corpus).manifest.shards)  # once for both ranks
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    resumed = train(corpus, resume=run)
    # Two ranks sum in another order, and training amplifies that; two epochs are 6 % apart.
    assert losses(resumed) == pytest.approx(uncut, rel=5e-3)
