from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.errors import CheckpointError, ConfigError, UsageError
from distill_ray.orchestrate.run_folder import Start, new_run, resumed_run

GIVEN: dict[str, object] = {
    "corpus.sample_rate": 8_000,
    "model.codebook_size": 32,
    "training.epochs": 3,
    "prior.hidden_size": 64,
}


def begun(folder: Path, given: Mapping[str, object] = GIVEN) -> Start:
    """A run as `pipeline.train_codec` begins it."""
    start = new_run(folder, "m", given)
    facts = CorpusFacts(file_count=9, train_seconds=60.0, sample_rate=8_000, channels=1)
    resolved = resolve_vqvae(facts, overrides=given, size=None, accelerator=False, workers=1)
    start.folder.create(
        resolved,
        {"name": "m", "size": resolved.size, "corpus": "abc"},
        corpus={"sample_rate": 8_000},
        fresh=start.is_new,
    )
    return start


def test_a_resumed_run_has_the_settings_it_began_with(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(tmp_path, {}, table="training")
    assert start.identity == {"name": "m", "size": "tiny", "corpus": "abc"}
    assert start.settings["model.codebook_size"] == 32
    assert start.settings["training.epochs"] == 3
    assert start.settings["corpus.sample_rate"] == 8_000
    assert "training.epochs" in start.overrides
    assert "training.lr" not in start.overrides


def test_the_settings_file_of_the_first_part_is_welcome_again(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(tmp_path, {**GIVEN, "model.size": "tiny", "training.epochs": 5}, table="training")
    assert start.settings["training.epochs"] == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.codebook_size", 64),
        ("training.lr", 0.5),
        ("corpus.sample_rate", 44_100),
        ("model.size", "base"),
    ],
)
def test_what_makes_it_another_run_is_refused(tmp_path: Path, key: str, value: object) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError) as refused:
        resumed_run(tmp_path, {**GIVEN, key: value}, table="training")
    assert [problem.key for problem in refused.value.problems] == [key]


def test_minutes_take_the_place_of_epochs(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(tmp_path, {"training.max_minutes": 2.0}, table="training")
    assert start.settings["training.max_minutes"] == 2.0
    assert "training.epochs" not in start.settings


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(tmp_path, {}, table="training")
    start.check({"corpus": "abc"})
    with pytest.raises(UsageError, match="made from another corpus"):
        start.check({"corpus": "def"})


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        resumed_run(tmp_path, {}, table="training")


def test_a_run_is_never_begun_in_the_folder_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path)
    with pytest.raises(UsageError, match="already holds a run"):
        new_run(tmp_path, "m", GIVEN)
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "runs" / "m")
    assert new_run(None, "m", GIVEN).folder.path == tmp_path / "runs" / "m-2"
