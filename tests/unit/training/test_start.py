"""The start in closed form took up to a minute on CPUs, said nothing and heard no Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.display.plain import stage_line
from distill_ray.errors import CancelledError
from distill_ray.events.records import Event, Notice, RunStarted, StageProgress
from distill_ray.training import start as module
from distill_ray.training.start import Start
from distill_ray.training.vqvae import train_vqvae
from distill_ray.training.worker import LocalWorker, StopFlag

CPU = torch.device("cpu")
Config = Callable[..., VQTrainConfig]


def worker_of(folder: Path, heard: list[Event], stop: StopFlag | None = None) -> LocalWorker:
    return LocalWorker(folder, device=CPU, listener=heard.append, stop=stop)


def test_a_start_tells_how_far_it_is_and_then_the_run_begins(
    corpus: Corpus, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.0)
    heard: list[Event] = []
    config = small_config(training__epochs=1, model__purpose="generation")
    train_vqvae(corpus.uri, config, worker_of(tmp_path, heard))
    told = [event for event in heard if isinstance(event, StageProgress)]
    assert heard[: len(told)] == told
    assert isinstance(heard[len(told)], RunStarted)
    assert [event.done for event in told] == list(range(told[-1].total + 1))
    notes = list(dict.fromkeys(event.note for event in told))
    assert notes[0] == "parts: components of the spectra"
    assert notes[-4:] == ["parts: codebook 1 of 2", "parts: codebook 2 of 2", "parts: decoder", "parts"]


def test_a_stop_ends_the_start_with_nothing_to_go_on_with(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    stop, heard = StopFlag(), list[Event]()
    stop.request()
    worker = worker_of(tmp_path, heard, stop)
    with pytest.raises(CancelledError, match="stopped before the first step"):
        train_vqvae(corpus.uri, small_config(), worker)
    assert worker.restore() is None
    assert heard == []


def test_a_start_out_of_time_hurries_and_that_is_said(
    corpus: Corpus, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST_S", -1.0)
    heard: list[Event] = []
    config = small_config(training__epochs=1, training__max_minutes=1e-9, model__purpose="generation")
    done = train_vqvae(corpus.uri, config, worker_of(tmp_path, heard))
    assert isinstance(heard[0], RunStarted)
    (said, *_) = (event for event in heard if isinstance(event, Notice))
    assert said.message.startswith("the start of the codebooks was cut short, for lack of time")
    assert said.message in done.warnings
    assert done.steps == 1
    assert done.final_val_loss < 100.0


def test_a_start_that_was_cut_short_does_not_say_that_it_did_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.0)
    heard: list[Event] = []
    start = Start(worker_of(tmp_path, heard), parts=131, began=time.monotonic(), max_minutes=1.0)
    assert start("recordings")
    start._ends_at = 0.0
    assert not start("recordings")
    start.end()
    assert [stage_line(event) for event in heard if isinstance(event, StageProgress)] == [
        "start: 0 of 131  parts: recordings",
        "start: 1 of 131  parts: recordings",
        "start: 1 of 1  parts, then cut short",
    ]


def test_a_quarter_of_the_budget_is_enough(tmp_path: Path) -> None:
    worker = worker_of(tmp_path, [])
    now = time.monotonic()
    assert Start(worker, parts=1, began=now - 14.0, max_minutes=1.0)("a")
    assert not Start(worker, parts=1, began=now - 16.0, max_minutes=1.0)("a")
    assert Start(worker, parts=1, began=now - 1e6, max_minutes=None)("a")
