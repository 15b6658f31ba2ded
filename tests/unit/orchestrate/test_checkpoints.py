from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distill_ray.errors import CheckpointError
from distill_ray.orchestrate.checkpoints import RAY_RUN, ray_storage, settle


def _ray_checkpoint(checkpoints: Path, name: str, text: str) -> None:
    folder = ray_storage(checkpoints) / RAY_RUN / name
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "state").write_text(text)


def _snapshot(checkpoints: Path, newest: str | None) -> None:
    result = None if newest is None else {"checkpoint_dir_name": newest, "metrics": {}}
    file = ray_storage(checkpoints) / RAY_RUN / "checkpoint_manager_snapshot.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"latest_checkpoint_result": result}))


def test_nothing_yet(tmp_path: Path) -> None:
    assert settle(tmp_path / "checkpoints") is None


def test_the_newest_complete_checkpoint_of_ray_replaces_the_latest(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "old").write_text("old")
    _ray_checkpoint(tmp_path, "checkpoint_1", "first")
    _ray_checkpoint(tmp_path, "checkpoint_2", "second")
    _ray_checkpoint(tmp_path, "checkpoint_3", "half writ")  # not in Ray's list: it was not complete
    _snapshot(tmp_path, "checkpoint_2")

    assert settle(tmp_path) == tmp_path / "latest"
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]
    assert [path.name for path in (tmp_path / "latest").iterdir()] == ["inner"]
    assert (tmp_path / "latest" / "inner" / "state").read_text() == "second"
    assert settle(tmp_path) == tmp_path / "latest"
    assert (tmp_path / "latest" / "inner" / "state").read_text() == "second"


@pytest.mark.parametrize("snapshot", ["", "{", "[]", "null", '{"latest_checkpoint_result": null}'])
def test_a_run_killed_before_its_first_checkpoint_keeps_the_earlier_one(
    tmp_path: Path, snapshot: str
) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "state").write_text("earlier")
    _ray_checkpoint(tmp_path, "checkpoint_1", "half writ")
    (ray_storage(tmp_path) / RAY_RUN / "checkpoint_manager_snapshot.json").write_text(snapshot)
    assert settle(tmp_path) == tmp_path / "latest"
    assert (tmp_path / "latest" / "state").read_text() == "earlier"
    assert not ray_storage(tmp_path).exists()


def test_a_listed_checkpoint_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    _snapshot(tmp_path, "checkpoint_7")
    assert settle(tmp_path) is None
    assert not ray_storage(tmp_path).exists()


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    _ray_checkpoint(tmp_path, "checkpoint_1", "copied")
    _snapshot(tmp_path, "checkpoint_1")
    assert settle(tmp_path) == tmp_path / "latest"
    assert (tmp_path / "latest" / "inner" / "state").read_text() == "copied"


def test_a_disk_that_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distill_ray.orchestrate.checkpoints.replace_folder", full)
    _ray_checkpoint(tmp_path, "checkpoint_1", "x")
    _snapshot(tmp_path, "checkpoint_1")
    with pytest.raises(CheckpointError, match=r"latest: .*No space left on device"):
        settle(tmp_path)
    assert (ray_storage(tmp_path) / RAY_RUN / "checkpoint_1").exists()
