from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill_ray.config.prior import PriorConfig, PriorTrainConfig, PriorTrainingConfig
from distill_ray.config.vqvae import PURPOSES
from distill_ray.corpus import Corpus
from distill_ray.events.records import Event, PriorEpochMetrics, PriorTrainingCompleteEvent
from distill_ray.prior import CodePrior, CodeSequence, extract_code_sequences
from distill_ray.prior.codes import _write_shard as write_shard
from distill_ray.training import checkpoint
from distill_ray.training.loop import Progress
from distill_ray.training.prior import PriorTask, train_prior
from distill_ray.training.retokenise import Recordings
from distill_ray.training.worker import LocalWorker, StopFlag

CPU = torch.device("cpu")
LEVELS, CODES = 2, 8


@pytest.fixture(scope="module")
def codes(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes of the corpus by a codec that is no neural network: coarse loudness, and a counter."""

    def encode(audio_CT: torch.Tensor) -> torch.Tensor:
        frames = audio_CT.shape[1] // 64
        level = audio_CT[0, : frames * 64].view(frames, 64).abs().mean(dim=1)
        loudness = (level * 60).long().clamp(max=CODES - 1)
        counter = torch.arange(frames) % CODES
        return torch.stack([loudness, counter])

    store = extract_code_sequences(
        encode,
        corpus,
        [*corpus.files("train"), *corpus.files("val")],
        cache=tmp_path_factory.mktemp("codes"),
        model_hash="0" * 64,
        codebook_size=CODES,
        num_quantizers=LEVELS,
    )
    return store.folder


def config(**training: object) -> PriorTrainConfig:
    model = PriorConfig(
        codebook_size=CODES,
        num_quantizers=LEVELS,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        dropout=0.1,
        context_frames=32,
    )
    settings = {"epochs": 3, "batch_size": 8, "lr": 3e-3, "warmup_steps": 4, "min_epoch_steps": 10}
    return PriorTrainConfig(model=model, training=PriorTrainingConfig(**{**settings, **training}))  # type: ignore[arg-type]


def train(
    codes: Path,
    run: PriorTrainConfig,
    folder: Path,
    stop: StopFlag | None = None,
    recordings: Recordings | None = None,
) -> tuple[PriorTrainingCompleteEvent, list[PriorEpochMetrics]]:
    seen: list[PriorEpochMetrics] = []

    def listen(event: Event) -> None:
        if isinstance(event, PriorEpochMetrics):
            seen.append(event)
            if stop is not None:
                stop.request()

    worker = LocalWorker(folder, device=CPU, listener=listen, stop=stop)
    return train_prior(str(codes), run, worker, frame_rate=125.0, recordings=recordings), seen


def test_training_learns_what_can_be_learnt(codes: Path, tmp_path: Path) -> None:
    completed, seen = train(codes, config(epochs=8), tmp_path)
    # The counter is certain after one look; loudness is not: well below log 8, above nothing.
    assert completed.best_perplexity == pytest.approx(min(event.val_perplexity for event in seen))
    assert 1.0 < completed.best_perplexity < 2.5
    assert seen[-1].val_loss < 0.5 * math.log(CODES)
    bits = math.log(completed.best_perplexity) / math.log(2) * 125.0 * LEVELS
    assert completed.bits_per_second == pytest.approx(bits)
    assert completed.below_histogram is not None
    assert completed.below_histogram > 0.5  # the counter is half of all codes, and even in its histogram
    assert not any("noise" in text for text in completed.memorization_warnings)
    prior = CodePrior(config().model)
    prior.load_state_dict(checkpoint.read_weights(tmp_path / "latest" / "best.safetensors"))
    task = PriorTask(
        codes, config(), LocalWorker(tmp_path / "x", device=CPU), frame_rate=125.0, vectors_QKL=None
    )
    task.model.load_state_dict(prior.state_dict())
    assert math.exp(task.validate()) == pytest.approx(completed.best_perplexity, rel=1e-5)


def test_a_resumed_run_ends_as_an_uncut_one(codes: Path, tmp_path: Path) -> None:
    uncut, whole = train(codes, config(), tmp_path / "uncut")
    cut, first = train(codes, config(), tmp_path / "cut", StopFlag())
    assert (cut.exit_reason, cut.epochs_trained) == ("cancelled", 1)
    resumed, rest = train(codes, config(), tmp_path / "cut")
    losses = [(event.epoch, event.train_loss, event.val_loss) for event in first + rest]
    assert losses == [(event.epoch, event.train_loss, event.val_loss) for event in whole]
    assert resumed.final_perplexity == uncut.final_perplexity


def settled(
    codes: Path,
    folder: Path,
    *,
    newest_scale: float,
    best_scale: float = 1.0,
    ended: str = "completed",
    minutes: float | None = None,
) -> tuple[PriorTask, Progress]:
    """A run of four epochs whose second was the best by loss; both weights differ by how sure they are."""
    vectors_QKL = torch.randn(LEVELS, CODES, 8, generator=torch.Generator().manual_seed(0))
    worker = LocalWorker(folder, device=CPU)
    task = PriorTask(codes, config(max_minutes=minutes), worker, frame_rate=16.0, vectors_QKL=vectors_QKL)
    for step in range(60):
        task.train_step(step, step / 60)
    task.keep_best()
    assert task.best is not None
    task.best = {name: value * best_scale for name, value in task.best.items()}
    with torch.no_grad():
        task.model.heads_QKE.mul_(newest_scale)
    progress = Progress(epoch=4, best_epoch=2, kept_epoch=2, best_loss=1.0, ended=ended)
    task.settle(progress)
    return task, progress


def test_the_weights_are_kept_that_generate_more_like_the_recordings(codes: Path, tmp_path: Path) -> None:
    task, progress = settled(codes, tmp_path / "worse", newest_scale=0.0)
    assert progress.kept_epoch == 2
    assert task.best is not None
    assert float(task.best["heads_QKE"].abs().sum()) > 0.0
    assert task.calibration is not None
    untrained, _ = settled(codes, tmp_path / "cut", newest_scale=0.0, ended="cancelled")
    assert untrained.calibration == task.calibration  # of the best weights alone
    assert float(task.model.heads_QKE.detach().abs().sum()) == 0.0  # the run could go on with the newest ones
    assert task.held_out_distance is not None
    # The newest ones, where they are better: the best were spoilt beforehand.
    task.best = {name: value * 0.0 for name, value in task.best.items()}
    with torch.no_grad():
        for name, value in untrained.best.items() if untrained.best is not None else ():
            task.model.state_dict()[name].copy_(value)
    task.settle(progress)
    assert progress.kept_epoch == 4
    assert float(task.best["heads_QKE"].abs().sum()) > 0.0


@pytest.mark.parametrize(("newest_scale", "best_scale", "kept"), [(1.0, 0.0, 4), (0.0, 1.0, 2)])
def test_without_time_both_weights_are_tried_at_one_temperature(
    codes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    newest_scale: float,
    best_scale: float,
    kept: int,
) -> None:
    monkeypatch.setattr("distill_ray.training.prior._CHOOSING_SHARE", 0.0)
    monkeypatch.setattr("distill_ray.training.prior._LEAST_CHOOSING_S", 0.0)
    task, progress = settled(codes, tmp_path, newest_scale=newest_scale, best_scale=best_scale, minutes=1.0)
    assert progress.kept_epoch == kept
    assert task.calibration is not None
    assert task.calibration.cut_short
    assert task.best is not None
    assert float(task.best["heads_QKE"].abs().sum()) > 0.0


def test_a_greater_budget_begins_with_varied_variants_again(codes: Path, tmp_path: Path) -> None:
    run = config(unvaried_share=0.3, variant_steps=2)
    task = PriorTask(codes, run, LocalWorker(tmp_path, device=CPU), frame_rate=125.0, vectors_QKL=None)
    seen = []
    for step, fraction in enumerate((0.0, 0.4, 0.7, 0.9, 0.3, 0.6, 0.8)):
        task.train_step(step, fraction)
        seen.append(task.figures.unvaried_from)
    assert seen == [None, None, 1, 1, None, None, 3]


def test_embeddings_start_from_the_codebooks(codes: Path, tmp_path: Path) -> None:
    books = torch.randn(LEVELS, CODES, 8)
    books[0, 1] = books[0, 0]
    worker = LocalWorker(tmp_path, device=CPU)
    task = PriorTask(codes, config(), worker, frame_rate=125.0, vectors_QKL=books)
    embedding = task.model.embedding.weight
    assert torch.equal(embedding[0], embedding[1])
    assert not torch.equal(embedding[0], embedding[2])


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_prior_that_hardly_beats_the_histogram_is_warned_of(tmp_path: Path, purpose: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randint(CODES, (LEVELS, 300), generator=generator) for _ in range(4)]
    files = [
        CodeSequence(sha256=f"{number:064x}", split=split, codes_QT=codes_QT.to(torch.int16))
        for number, (codes_QT, split) in enumerate(
            zip(noise, ("train", "train", "train", "val"), strict=True)
        )
    ]
    write_shard(tmp_path / "codes", files)
    codec: Any = SimpleNamespace(config=SimpleNamespace(purpose=purpose))
    recordings = Recordings(corpus=str(tmp_path), codec=codec)
    completed, _ = train(tmp_path / "codes", config(epochs=1), tmp_path / "run", recordings=recordings)
    assert completed.histogram_bits_per_second == pytest.approx(3 * 125.0 * LEVELS, rel=0.02)
    assert completed.below_histogram == pytest.approx(0.0, abs=0.04)
    (warning,) = [text for text in completed.memorization_warnings if "noise" in text]
    assert "than a histogram of each level's codes" in warning
    assert warning.endswith(
        {
            "generation": "train on more audio or longer",
            "compression": "train on more audio or longer, or train a codec with --purpose generation",
        }[purpose]
    )


def test_codes_in_training_are_counted_per_second(codes: Path, tmp_path: Path) -> None:
    completed, _ = train(codes, config(epochs=1), tmp_path)
    assert completed.codes_per_second * completed.elapsed_s >= completed.steps * 8 * 48 * LEVELS


def test_memorising_epochs_are_warned_of_once_and_the_best_is_kept(codes: Path, tmp_path: Path) -> None:
    # Without dropout and with a high rate a few seconds of codes are soon learnt by heart.
    run = config(epochs=12, patience=0, lr=1e-2, weight_decay=0.0, min_epoch_steps=20)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, dropout=0.0, hidden_size=64))
    completed, seen = train(codes, run, tmp_path)
    memorizing = [event.epoch for event in seen if event.is_memorizing]
    assert len(memorizing) >= 2
    stretches = [epoch for epoch in memorizing if epoch - 1 not in memorizing]
    epoch_warnings = [text for text in completed.memorization_warnings if text.startswith("from epoch")]
    assert [text.split()[2] for text in epoch_warnings] == [str(epoch) for epoch in stretches]
    assert completed.best_epoch < memorizing[-1]
    assert math.fsum(completed.level_nats) / LEVELS == pytest.approx(math.log(completed.best_perplexity))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("masked_share", [0.0, 0.25])
@pytest.mark.parametrize("epochs", [3, 1000], ids=["plain", "kernels"])
def test_a_captured_step_is_the_step(codes: Path, tmp_path: Path, masked_share: float, epochs: int) -> None:
    found = []
    for capture in ("off", "auto"):
        said: list[Event] = []
        run = config(capture=capture, epochs=epochs)
        run = dataclasses.replace(run, model=dataclasses.replace(run.model, masked_share=masked_share))
        worker = LocalWorker(tmp_path / capture, device=torch.device("cuda"), listener=said.append)
        task = PriorTask(codes, run, worker, frame_rate=125.0, vectors_QKL=None)
        assert task.uses_kernels == (epochs == 1000)
        losses = []
        for step in range(8):  # with dropout, whose numbers are of the step
            task.train_step(step, 0.1)
            losses.append(float(task.sums[0]))
        assert said == []
        found.append((losses, task.model.state_dict()))
    (eager, weights), (captured, same_weights) = found
    assert captured == eager
    assert all(torch.equal(value, same_weights[name]) for name, value in weights.items())
