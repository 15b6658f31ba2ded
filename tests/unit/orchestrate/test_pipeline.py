from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.bundle import save_model_v2
from distill_ray.errors import ConfigError
from distill_ray.orchestrate.pipeline import train_code_prior, train_codec
from distill_ray.orchestrate.plan import WorkerPlan
from distill_ray.training.events import Event
from distill_ray.vqvae import VQVAE, VQVAEConfig
from distill_ray.vqvae.health import LevelHealth


def test_wrong_prior_settings_are_said_before_the_data_is_looked_at(tmp_path: Path) -> None:
    config = VQVAEConfig(
        sample_rate=8_000,
        codebook_size=16,
        num_quantizers=2,
        width=16,
        latent_dim=16,
        encoder_blocks=1,
        decoder_blocks=1,
        n_fft=128,
        hop=32,
    )
    health = LevelHealth(utilization=1.0, perplexity=8.0, dead_codes=0, entropy=0.75)
    model = save_model_v2(
        tmp_path / "m.distill", VQVAE(config), metadata={}, codebook_health=[health, health]
    )
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
            size=None,
            out=tmp_path / "run",
            name=None,
            resume=None,
            plan=WorkerPlan(num_workers=-2, gpus_per_worker=-1.0),
            listener=lambda event: None,
        )
    flags = [problem.flag for problem in caught.value.problems]
    assert flags == ["--num-workers", "--gpus-per-worker", "--lr"]
