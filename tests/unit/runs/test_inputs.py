from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.config.resolve import CorpusFacts, dotted, resolve_vqvae
from distill_ray.runs.inputs import given_settings, idle_settings
from distill_ray.runs.run_folder import RunFolder, new_run

FACTS = CorpusFacts(file_count=9, train_seconds=60.0, sample_rate=44_100, channels=1)


def recorded(folder: Path, **given: object) -> Path:
    start = new_run(RunFolder(path=folder), {f"model.{key}": value for key, value in given.items()})
    resolved = resolve_vqvae(FACTS, overrides={**start.settings, "model.size": "tiny"})
    identity = {"name": "m", "size": "tiny", "corpus": "abc"}
    start.record(dotted(resolved.config), identity, overrides=resolved.overrides, corpus={})
    return folder / "run.toml"


def test_what_a_run_recorded_is_taken_but_not_what_it_was(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    settings = given_settings(path, {})
    assert settings["model.width"] == 128
    assert not any(key.startswith("run.") for key in settings)
    assert 'size = "tiny"  # of this run, not read from --config' in path.read_text()


def test_another_size_wins_over_what_a_run_had_chosen_by_its_own(tmp_path: Path) -> None:
    small = {"model.size": "small"}
    config = resolve_vqvae(FACTS, overrides=given_settings(recorded(tmp_path / "a"), small)).config
    assert (config.model.width, config.training.lr) == (256, 1e-3)
    chosen = given_settings(recorded(tmp_path / "b", width=96), small)
    assert chosen["model.width"] == 96
    assert "model.latent_dim" not in chosen


def test_a_file_written_by_hand_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[model]\nwidth = 96\n")
    small: dict[str, object] = {"model.size": "small"}
    assert given_settings(tmp_path / "my.toml", small) == {"model.width": 96, "model.size": "small"}
    assert given_settings(None, {}) == {}


def test_the_command_line_wins_over_the_file_in_size_too(tmp_path: Path) -> None:
    """Until ed010dd a size of the file won over --size."""
    (tmp_path / "my.toml").write_text('[model]\nsize = "small"\nwidth = 96\n[training]\nlr = 0.5\n')
    given = given_settings(tmp_path / "my.toml", {"model.size": "base", "training.lr": 0.25})
    resolved = resolve_vqvae(FACTS, overrides=given)
    assert (resolved.size, resolved.config.model.width, resolved.config.training.lr) == ("base", 96, 0.25)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, []),
        (
            {"adversarial.start": 0.5, "health.floor": 0.9, "health.warmup": 1},
            [
                "adversarial.start: no effect without --adversarial",
                "health.floor, health.warmup: no effect without --health-stop",
            ],
        ),
        (
            {"adversarial.start": 0.5, "adversarial.enabled": True, "health.stop": True, "health.floor": 0.9},
            [],
        ),
        ({"adversarial.start": 0.5, "adversarial.enabled": False}, []),  # as a run records it
    ],
)
def test_settings_without_effect_are_said(given: dict[str, object], said: list[str]) -> None:
    resolved = resolve_vqvae(FACTS, overrides={**given, "model.size": "tiny"})
    assert list(idle_settings(resolved)) == said
