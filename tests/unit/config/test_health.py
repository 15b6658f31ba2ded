from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.config.health import HealthConfig
from distill_ray.config.length import measurable_steps
from distill_ray.config.resolve import (
    KEPT_FLOOR,
    CorpusFacts,
    Resolved,
    dotted,
    resolve_vqvae,
)
from distill_ray.config.toml import read_toml, write_toml
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import ConfigError

GIVEN: dict[str, object] = {
    "health.stop": True,
    "health.measure": "entropy",
    "health.floor": 0.25,
    "health.patience": 4,
    "health.warmup": 0,
}


def resolve(overrides: dict[str, object]) -> Resolved[VQTrainConfig]:
    facts = CorpusFacts(file_count=30, train_seconds=300.0, sample_rate=44_100, channels=1)
    return resolve_vqvae(facts, overrides=overrides)


def test_a_run_takes_the_rule_from_its_settings() -> None:
    resolved = resolve(GIVEN)
    assert resolved.config.health == HealthConfig(
        stop=True,
        measure="entropy",
        floor=0.25,
        patience=4,
        warmup=0,
        kept_floor=KEPT_FLOOR,
    )
    assert resolved.source("health.floor") == "override"
    free = resolve({})
    assert (free.config.health.stop, free.source("health.stop")) == (False, "auto")


def test_the_rule_is_written_and_read_back(tmp_path: Path) -> None:
    """As `run.toml` does it, which may be given to --config."""
    config = resolve(GIVEN).config
    path = tmp_path / "run.toml"
    path.write_text(write_toml(dotted(config), {}), "utf-8")
    assert "[health]\nstop = true\n" in path.read_text("utf-8")
    assert resolve(read_toml(path)).config == config


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("floor", 1.5, "--health-floor"),
        ("patience", 0, "--health-patience"),
        ("warmup", -1, "--health-warmup"),
        ("measure", "perplexity", None),
        ("stop", "yes", "--health-stop"),
        ("flor", 0.2, None),
    ],
)
def test_what_is_no_rule_is_said(key: str, value: object, named: str | None) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve({f"health.{key}": value})
    (problem,) = refused.value.problems
    assert (problem.key, problem.flag) == (f"health.{key}", named)


def test_an_epoch_is_long_enough_for_a_report() -> None:
    config = resolve(
        {"model.purpose": "compression", "model.codebook_size": 1024, "training.batch_size": 8}
    ).config
    last_level = 9 / 16  # of the windows: half use all 8 levels, and an eighth of the others the last one
    vectors = measurable_steps(config) * 8 * config.window_frames * last_level
    assert 50 * 1024 <= vectors < 1.02 * 50 * 1024
