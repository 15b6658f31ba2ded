"""A tiny codec and prior, and files that hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_ray.bundle import save_model_v2
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.prior import CodePrior
from distill_ray.vqvae import VQVAE, LevelHealth

CODEC = VQVAEConfig(
    width=16, encoder_blocks=1, decoder_blocks=1, latent_dim=16, num_quantizers=2, codebook_size=16
)
PRIOR = PriorConfig(
    codebook_size=16, num_quantizers=2, hidden_size=16, num_layers=1, num_heads=2, context_frames=16
)
HEALTH = (
    LevelHealth(utilization=0.5, perplexity=7.25, dead_codes=8, entropy=0.7),
    LevelHealth(utilization=1.0, perplexity=15.5, dead_codes=0, entropy=0.99),
)
METADATA = {
    "corpus": {"digest": "ab" * 32, "files": 3},
    "loss_history": [{"epoch": 1, "train_loss": 2.5, "val_loss": 2.75}],
    "provenance": {"run_id": "run", "seed": 7, "ray_job_id": None},
}


@pytest.fixture
def make_codec() -> Callable[..., VQVAE]:
    """Codecs by seed, and by settings that differ from `CODEC`."""

    def make(seed: int = 0, **changes: Any) -> VQVAE:
        torch.manual_seed(seed)
        return VQVAE(dataclasses.replace(CODEC, **changes))

    return make


@pytest.fixture
def make_prior() -> Callable[..., CodePrior]:
    """Priors by seed, and by settings that differ from `PRIOR`."""

    def make(seed: int = 0, **changes: Any) -> CodePrior:
        torch.manual_seed(seed)
        return CodePrior(dataclasses.replace(PRIOR, **changes))

    return make


@pytest.fixture
def save() -> Callable[..., Path]:
    """`save_model_v2` with metadata and health."""

    def save_with_facts(path: Path, codec: VQVAE, prior: CodePrior | None = None) -> Path:
        return save_model_v2(
            path,
            codec,
            metadata=METADATA,
            codebook_health=HEALTH,
            prior=prior,
            prior_metadata={"best_perplexity": 3.5},
        )

    return save_with_facts


@pytest.fixture
def codec_file(tmp_path: Path, make_codec: Callable[..., VQVAE], save: Callable[..., Path]) -> Path:
    return save(tmp_path / "codec.distill", make_codec())


@pytest.fixture
def full_file(
    tmp_path: Path,
    make_codec: Callable[..., VQVAE],
    make_prior: Callable[..., CodePrior],
    save: Callable[..., Path],
) -> Path:
    return save(tmp_path / "full.distill", make_codec(), make_prior())
