"""A tiny model with a prior, and recordings for it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel, load_model_v2, save_model_v2
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.prior import CodePrior, Controls
from distill_ray.vqvae import VQVAE

RATE = 8_000
HOP = 64
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


def recording(seed: int, seconds: float, channels: int, rate: int) -> np.ndarray[Any, Any]:
    """Decaying notes and noise, float32 [T, C]; the channels differ."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    columns = []
    for _ in range(channels):
        notes = sum(np.sin(2 * np.pi * random.uniform(80, 1500) * time) for _ in range(3))
        columns.append(0.2 * notes * np.exp(-3 * (time % 0.5)) + 0.01 * random.standard_normal(len(time)))
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., Path]:
    """A wav file of synthetic music."""

    def make(seconds: float, *, channels: int = 1, rate: int = RATE, seed: int = 0) -> Path:
        path = tmp_path / f"audio{seed}.wav"
        soundfile.write(path, recording(seed, seconds, channels, rate), rate)
        return path

    return make


@pytest.fixture
def make_loaded(tmp_path: Path, make_model: Callable[..., Path]) -> Callable[..., LoadedVQModel]:
    """A model of this test whose codebooks are started on music, with a prior unless `prior` is false."""

    def make(*, seed: int = 0, **wanted: Any) -> LoadedVQModel:
        return load_model_v2(shutil.copy(make_model(seed=seed, **wanted), tmp_path / f"model{seed}.distill"))

    return make


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The files of `make_loaded`, which take longer to make than most tests: each is made once."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def make(**wanted: Any) -> Path:
        key = repr(sorted(wanted.items()))
        if key not in made:
            made[key] = write(folder / f"{len(made)}.distill", **wanted)
        return made[key]

    def write(
        path: Path,
        *,
        seed: int,
        prior: bool = True,
        controls: Controls | None = None,
        masked_share: float = 0.0,
        **changes: Any,
    ) -> Path:
        torch.manual_seed(seed)
        codec = VQVAE(dataclasses.replace(CODEC, **changes))
        config = codec.config
        audio_BTC = np.stack([recording(index, 1.024, config.channels, RATE) for index in range(4)])
        generator = torch.Generator().manual_seed(seed)
        codec.initialise(torch.from_numpy(audio_BTC).transpose(1, 2), generator)
        with torch.no_grad():  # an untrained decoder whispers
            codec.decoder.head.weight.mul_(8)
        own = CodePrior(
            PriorConfig(
                codebook_size=config.codebook_size,
                num_quantizers=config.num_quantizers,
                hidden_size=16,
                num_layers=1,
                num_heads=2,
                context_frames=16,
                masked_share=masked_share,
                controls=len(controls.scales) if controls else 0,
                labels=len(controls.labels) if controls else 0,
            )
        )
        if own.conditions is not None:
            torch.nn.init.normal_(own.conditions.weight[1:].detach(), std=2.0)
        with torch.no_grad():  # far from uniform, so that temperature and top-k make a difference
            own.heads_QKE.mul_(20)
        return save_model_v2(
            path,
            codec,
            metadata={},
            codebook_health=(),
            prior=own if prior else None,
            prior_metadata={"controls": None if controls is None else controls.to_json()},
        )

    return make
