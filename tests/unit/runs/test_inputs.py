from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.runs.inputs import file_settings, idle_settings
from distill_ray.runs.run_folder import RunFolder, new_run

FACTS = CorpusFacts(file_count=9, train_seconds=60.0, sample_rate=44_100, channels=1)


def recorded(folder: Path, **given: object) -> Path:
    start = new_run(RunFolder(path=folder), {f"model.{key}": value for key, value in given.items()})
    resolved = resolve_vqvae(FACTS, overrides=start.settings, size="tiny", accelerator=False, workers=1)
    start.record(resolved, {"name": "m", "size": "tiny", "corpus": "abc"}, corpus={})
    return folder / "run.toml"


def test_what_a_run_recorded_is_taken_but_not_what_it_was(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    settings = file_settings(path)
    assert settings["model.width"] == 128
    assert not any(key.startswith("run.") for key in settings)
    assert 'size = "tiny"  # of this run, not read from --config' in path.read_text()


def test_another_size_wins_over_what_a_run_had_chosen_by_its_own(tmp_path: Path) -> None:
    settings = file_settings(recorded(tmp_path / "a"), size="small")
    config = resolve_vqvae(FACTS, overrides=settings, size="small", accelerator=False, workers=1).config
    assert (config.model.width, config.training.lr) == (256, 1e-3)
    chosen = file_settings(recorded(tmp_path / "b", width=96), size="small")
    assert chosen["model.width"] == 96
    assert "model.latent_dim" not in chosen


def test_a_file_written_by_hand_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[model]\nwidth = 96\n")
    assert file_settings(tmp_path / "my.toml", size="small") == {"model.width": 96}
    assert file_settings(None) == {}


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
    resolved = resolve_vqvae(FACTS, overrides=given, size="tiny", accelerator=False, workers=1)
    assert list(idle_settings(resolved)) == said
