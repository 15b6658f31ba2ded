"""What is given up for a model where a disk is full."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from distill_ray.errors import BundleError, TrainingError
from distill_ray.events.records import Notice
from distill_ray.pipeline.saving import save_model
from distill_ray.storage.checkpoints import MODEL_FILES, Checkpoints

MB = 1 << 20
Usage = namedtuple("Usage", "total used free")


class Disk:
    """Of so many bytes; the model takes 1 MB, its weights as much, the state of a checkpoint 3 MB."""

    def __init__(self, folder: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.size = folder, size
        self.checkpoints, self.model = folder / "checkpoints", folder / "m.distill"
        self.said: list[str] = []
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(size, 0, self.free()))

    def free(self) -> int:
        return self.size - sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def keep(self, folder: Path, *, whole: bool = True) -> None:
        for name in MODEL_FILES:
            (folder / name).write_bytes(bytes(MB if name == MODEL_FILES[0] else 100))
        if whole:
            (folder / "state.pt").write_bytes(bytes(3 * MB))

    def write(self, weights: Path, release: bool) -> None:
        content = (weights / MODEL_FILES[0]).read_bytes()
        if release:
            shutil.rmtree(weights)
        if self.free() < len(content):
            full = OSError(errno.ENOSPC, "No space left on device")
            raise BundleError(f"{self.model} cannot be written") from full
        self.model.write_bytes(content)

    def save(self, checkpoint: Path, *, cancelled: bool = False) -> None:
        def hear(event: object) -> None:
            assert isinstance(event, Notice)
            self.said.append(event.message)

        save_model(self.write, checkpoint, self.model, cancelled=cancelled, listener=hear)

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


LATEST = ["checkpoints/latest/best.safetensors", "checkpoints/latest/run.json", "checkpoints/latest/state.pt"]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.keep(lambda folder: Disk.keep(None, folder))  # type: ignore[arg-type]
    (checkpoints.latest / "name").unlink()
    return checkpoints.latest


def test_with_room_nothing_is_given_up(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, 6 * MB, monkeypatch)
    disk.save(kept)
    assert (disk.left(), disk.said) == ([*LATEST, "m.distill"], [])


@pytest.mark.parametrize("size", [4.5, 4.2])
def test_the_checkpoint_is_given_up_for_the_model(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    disk = Disk(tmp_path, int(size * MB), monkeypatch)
    disk.save(kept)
    assert disk.left() == ["m.distill"]
    assert disk.said == [
        f"{tmp_path} has no room for the model and the last checkpoint: that is given up for the model, and "
        "this run cannot go on from its end"
    ]


def test_a_run_that_was_stopped_keeps_its_checkpoint(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, int(4.5 * MB), monkeypatch)
    with pytest.raises(TrainingError, match="there is no room for its model"):
        disk.save(kept, cancelled=True)
    assert disk.left() == LATEST


@pytest.mark.parametrize(("size", "fits"), [(2.5, True), (1.2, True), (1.01, False)])
def test_weights_alone_become_the_model_where_both_or_one_of_them_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: float, fits: bool
) -> None:
    disk = Disk(tmp_path, int(size * MB), monkeypatch)
    weights = tmp_path / "checkpoints" / "weights"
    weights.mkdir(parents=True)
    disk.keep(weights, whole=False)
    if fits:
        disk.save(weights)
        assert (disk.left(), disk.said) == (["m.distill"], [])
    else:
        with pytest.raises(TrainingError):
            disk.save(weights)
        assert [Path(name).name for name in disk.left()] == sorted(MODEL_FILES)


def test_other_faults_of_a_model_stay_as_they_are(tmp_path: Path, kept: Path) -> None:
    def write(weights: Path, release: bool) -> None:
        raise BundleError("another codec")

    with pytest.raises(BundleError, match="another codec"):
        save_model(write, kept, tmp_path / "m", cancelled=False, listener=print)
    assert kept.is_dir()
