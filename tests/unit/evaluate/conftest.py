"""A tiny codec in memory and corpora of synthetic recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel, load_model_v2, save_model_v2
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.vqvae import VQVAE

RATE = 8_000
CODEC = VQVAEConfig(
    sample_rate=RATE,
    width=16,
    encoder_blocks=1,
    decoder_blocks=1,
    latent_dim=16,
    num_quantizers=3,
    codebook_size=16,
    n_fft=128,
    hop=32,
)


def recording(seed: int, seconds: float, channels: int) -> np.ndarray[Any, Any]:
    """Decaying notes and noise, float32 [T, C]."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    notes = sum(np.sin(2 * np.pi * random.uniform(80, 1500) * time) for _ in range(3))
    mono = 0.2 * notes * np.exp(-3 * (time % 0.5)) + 0.01 * random.standard_normal(len(time))
    return np.stack([mono * (1.0 if c == 0 else 0.6) for c in range(channels)], axis=1).astype(np.float32)


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Corpus]:
    def make(seconds: tuple[float, ...], channels: int = 1, val_fraction: float = 0.5) -> Corpus:
        source = tmp_path / "source"
        source.mkdir()
        for index, length in enumerate(seconds):
            soundfile.write(source / f"{index}.wav", recording(index, length, channels), RATE)
        config = CorpusConfig(sample_rate=RATE, channels=channels, val_fraction=val_fraction)
        prepare_corpus([source], tmp_path / "corpus", config=config, workers=1)
        return open_corpus(tmp_path / "corpus")

    return make


@pytest.fixture
def make_loaded(tmp_path: Path) -> Callable[..., LoadedVQModel]:
    def make(trained_on: Corpus | None = None, **changes: Any) -> LoadedVQModel:
        torch.manual_seed(0)
        codec = VQVAE(dataclasses.replace(CODEC, **changes))
        generator = torch.Generator().manual_seed(0)
        audio_BTC = np.stack([recording(index, 1.024, codec.config.channels) for index in range(4)])
        codec.initialise(torch.from_numpy(audio_BTC).transpose(1, 2), generator)
        metadata = {"corpus": {"digest": trained_on.digest}} if trained_on is not None else {}
        path = save_model_v2(tmp_path / "m.distill", codec, metadata=metadata, codebook_health=())
        return load_model_v2(path)

    return make
