"""A corpus of a few short, different sounds at 8 kHz, and a codec small enough for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.events.records import Event, TrainingCompleteEvent
from distill_ray.training.vqvae import VQTask, train_vqvae
from distill_ray.training.worker import LocalWorker, StopFlag

RATE = 8_000
SMALL: dict[str, object] = {
    "model.purpose": "compression",
    "model.codebook_size": 16,
    "model.num_quantizers": 2,
    "model.width": 16,
    "model.encoder_blocks": 1,
    "model.decoder_blocks": 1,
    "model.latent_dim": 16,
    "model.n_fft": 256,
    "model.hop": 64,
    "training.batch_size": 4,
    "training.window_seconds": 0.25,
    "training.epochs": 2,
    "training.min_epoch_steps": 4,
    "training.warmup_steps": 4,
    "training.reseed_every": 3,
    "training.val_seconds": 2.0,
}


def write_sounds(folder: Path, files: int, seconds: float) -> Path:
    """Plucks and noise bursts, each file different."""
    folder.mkdir(parents=True)
    for number in range(files):
        rng = np.random.default_rng(number)
        time = np.arange(round(seconds * RATE)) / RATE
        pitch = 110.0 * 2 ** rng.uniform(0, 3)
        tone = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 6))
        envelope = np.exp(-((time * rng.uniform(2, 6)) % 1.0) * 4)
        noise = rng.standard_normal(len(time)) * np.exp(-((time * 3) % 1.0) * 20)
        soundfile.write(folder / f"{number}.wav", 0.2 * tone * envelope + 0.05 * noise, RATE)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("sounds")
    sounds = write_sounds(folder / "in", files=6, seconds=1.5)
    config = CorpusConfig(sample_rate=RATE, val_fraction=0.3)
    report = prepare_corpus([sounds], folder / "corpus", config=config, workers=1)
    assert report.files_val >= 1
    return open_corpus(folder / "corpus")


def small_config(corpus: Corpus, **overrides: object) -> VQTrainConfig:
    """`SMALL` with changes; "__" in a name stands for the dot of the key."""
    facts = CorpusFacts(
        file_count=len(corpus.manifest.files),
        train_seconds=corpus.seconds("train"),
        sample_rate=corpus.sample_rate,
        channels=corpus.channels,
    )
    given = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
    given = {key: value for key, value in given.items() if value is not None}
    return resolve_vqvae(facts, overrides={**given, "model.size": "tiny"}).config


@pytest.fixture(scope="session", name="small_config")
def small_config_fixture(corpus: Corpus):  # type: ignore[no-untyped-def]
    return lambda **overrides: small_config(corpus, **overrides)


@pytest.fixture(scope="session")
def train() -> Callable[..., tuple[TrainingCompleteEvent, list[Event]]]:
    """Trains a codec in a folder; `stop_after` asks to stop after that many steps, as Ctrl-C would."""

    def run(
        corpus: Corpus, config: VQTrainConfig, folder: Path, *, stop_after: int | None = None
    ) -> tuple[TrainingCompleteEvent, list[Event]]:
        events: list[Event] = []
        steps, train_step = 0, VQTask.train_step

        def counted(task: VQTask, step: int, fraction: float) -> None:
            nonlocal steps
            train_step(task, step, fraction)
            steps += 1

        class Stop(StopFlag):
            def requested(self) -> bool:  # asked once before each step, and once after each epoch
                return stop_after is not None and steps >= stop_after

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VQTask, "train_step", counted)
            worker = LocalWorker(folder, device=torch.device("cpu"), listener=events.append, stop=Stop())
            return train_vqvae(corpus.uri, config, worker), events

    return run
