from __future__ import annotations

import errno
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from distill_ray.errors import CheckpointError
from distill_ray.events.records import Event, Notice
from distill_ray.storage.atomic import newest_folder
from distill_ray.storage.checkpoints import (
    MODEL_FILES,
    Checkpoints,
    empty_ray_storage,
    model_folder,
    node_folder,
)
from distill_ray.storage.uploaded import UploadedCheckpoints, discard, settle
from distill_ray.training import checkpoint as training_checkpoint
from distill_ray.training.worker import LocalWorker


def text(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "state").write_text(content)

    return write


def test_the_newest_one_is_kept_and_numbered(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None
    assert checkpoints.newest_name() == ""
    assert checkpoints.keep(text("one"))
    assert checkpoints.keep(text("two"))
    assert (checkpoints.latest / "state").read_text() == "two"
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.newest_name() == checkpoints.newest_name()
    assert again.newest_name().startswith("000002-")
    assert again.keep(text("three"))
    assert again.newest_name().startswith("000003-")
    assert [path.name for path in again.folder.iterdir()] == ["latest"]
    assert settle(again.folder) == again.latest


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file becomes larger than 1 MB. Python ignores SIGXFSZ, and gets an error instead."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_of(kind: str, path: Path, size: int) -> None:
    if kind == "state":
        training_checkpoint.write_state(path / "x", {"a": torch.zeros(size)})
    elif kind == "weights":
        training_checkpoint.write_weights(path / "x", {"a": torch.zeros(size)})
    else:
        training_checkpoint.write_json(path / "x", {"a": "x" * size})


@pytest.mark.parametrize("kind", ["state", "weights", "json"])
@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_costs_one_checkpoint_and_not_the_run(tmp_path: Path, kind: str) -> None:
    said: list[Event] = []
    folder = tmp_path / "checkpoints"
    worker = LocalWorker(Checkpoints(folder), device=torch.device("cpu"), listener=said.append)
    end = Notice(level="info", message="end")

    def save(size: int) -> None:
        worker.checkpoint(end, lambda path: write_of(kind, path, size))

    def kept() -> bytes:
        newest = worker.restore()
        assert newest is not None
        return (newest / "x").read_bytes()

    save(100)
    before = kept()
    save(2_000_000)
    assert kept() == before
    assert not (folder / "latest.new").exists()
    assert [notice.level for notice in said if isinstance(notice, Notice)] == ["info", "warning", "info"]
    assert isinstance(said[1], Notice)
    assert "the training went on" in said[1].message
    with pytest.raises(
        CheckpointError, match=rf"^the last checkpoint could not be written to {re.escape(str(folder))} .*"
    ) as caught:
        worker.finish()
    assert "make room and go on with --resume" in str(caught.value)
    save(200)
    worker.finish()


def test_of_a_last_one_without_room_the_weights_are_kept_until_the_next_one(tmp_path: Path) -> None:
    room = 0

    def write(folder: Path) -> None:
        for name in (*MODEL_FILES, "state.pt", "progress.json")[:room]:
            (folder / name).write_text("new")
        if room < 4:
            (folder / "half").write_text("n")
            raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.keep(write)
    with pytest.raises(CheckpointError, match="make room and begin anew"):  # it ended within the weights
        checkpoints.finish()
    assert model_folder(tmp_path, None) is None
    room = 2
    assert not checkpoints.keep(write)
    checkpoints.finish()
    assert checkpoints.notices()[-1].message == (
        f"of the end of this run only the weights are kept, for the model: {tmp_path} had no room for a "
        "checkpoint to go on from"
    )
    weights = model_folder(tmp_path, None)
    assert weights is not None
    assert {path.name for path in weights.iterdir()} == set(MODEL_FILES)
    room = 4
    assert checkpoints.keep(write)
    assert model_folder(tmp_path, checkpoints.newest()) == checkpoints.latest
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


def test_where_not_even_the_first_one_fits_nothing_is_promised(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.keep(fail)
    (notice,) = checkpoints.notices()
    assert notice.message.endswith("; the training went on")
    ended = Checkpoints(tmp_path)
    assert not ended.keep(fail, last=True)
    (notice,) = ended.notices()
    assert notice.message.startswith(f"the last checkpoint could not be written to {tmp_path} (")
    assert notice.message.endswith(")")
    with pytest.raises(CheckpointError, match="make room and begin anew: there is none before it"):
        checkpoints.finish()


def test_what_is_no_trouble_of_the_disk_is_not_swallowed(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="CUDA"):
        Checkpoints(tmp_path).keep(fail)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(text("old"))
    checkpoints.latest.rename(tmp_path / "latest.old")
    assert settle(tmp_path) == tmp_path / "latest.old" == newest_folder(tmp_path / "latest")
    assert checkpoints.newest_name().startswith("000001-")


def test_a_node_without_the_folder_needs_a_uri(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"does not see .*/away; give --out a folder that all nodes share"
    ):
        node_folder(tmp_path / "away", None)
    assert node_folder(tmp_path / "away", "s3://b/run/checkpoints").parent.name == "runs"


@pytest.fixture
def uploaded(tmp_path: Path) -> tuple[UploadedCheckpoints, Path]:
    """Checkpoints with a copy in a folder that holds somebody else's files too."""
    far = tmp_path / "far"
    for name in FOREIGN:
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).write_text("precious")
    return UploadedCheckpoints(tmp_path / "near", far.as_uri(), patience_s=10.0), far


FOREIGN = ["mine.bin", "000001/x", "000001-zzzz/x", "latest/weights.bin", "1-abcd/x", "000001-abcd"]


def left(far: Path) -> set[str]:
    return {str(path.relative_to(far)) for path in far.rglob("*") if path.is_file()}


def test_uploading_and_discarding_leave_what_is_of_no_checkpoint(
    uploaded: tuple[UploadedCheckpoints, Path],
) -> None:
    checkpoints, far = uploaded
    for content in ("one", "two", "three"):
        assert checkpoints.keep(text(content))
        checkpoints.flush()
    checkpoints.close()
    names = {name.partition("/")[0] for name in left(far) - set(FOREIGN)}
    assert names >= {"latest.json", checkpoints.newest_name()}
    assert len(names) == 3  # and the one before, for those who read it just now
    assert set(FOREIGN) <= left(far)
    near = checkpoints.folder
    (near / "notes.txt").write_text("mine")
    (near / "latest.old").mkdir()
    discard(near, far.as_uri())
    assert left(far) == set(FOREIGN)
    assert {path.name for path in near.iterdir()} <= {"notes.txt", ".lock"}
    assert Checkpoints(near).newest() is None


def test_a_run_that_was_deleted_at_the_uri_is_forgotten_whole(
    uploaded: tuple[UploadedCheckpoints, Path],
) -> None:
    checkpoints, far = uploaded
    assert checkpoints.keep(text("one"))
    checkpoints.flush()
    checkpoints.close()
    (checkpoints.folder / "latest.old").mkdir()  # of a replacement that was cut off
    (far / "latest.json").unlink()
    assert settle(checkpoints.folder, far.as_uri()) is None


@pytest.mark.parametrize("last", [False, True])
def test_an_upload_that_fails_is_tried_again_also_when_the_training_is_over(
    tmp_path: Path, last: bool
) -> None:
    (tmp_path / "far").write_text("a file, and no folder")
    checkpoints = UploadedCheckpoints(tmp_path / "near", (tmp_path / "far").as_uri(), patience_s=0.2)
    assert checkpoints.keep(text("one"), last=last)
    with pytest.raises(CheckpointError):
        checkpoints.flush()
    checkpoints.close()
    (notice,) = checkpoints.notices()
    assert notice.message.endswith("; the attempts went on") is last
    assert ("the training and the attempts went on" in notice.message) is not last


def test_a_linked_checkpoint_folder_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "latest").symlink_to(mine)
    (folder / "ray").symlink_to(mine)
    with pytest.raises(OSError, match="symbolic link"):
        discard(folder, None)
    assert (mine / "precious").exists()


def test_ray_begins_without_what_lies_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "ray" / "tune").mkdir(parents=True)
    (tmp_path / "ray" / "tune" / "tuner.pkl").write_bytes(b"planted")
    empty_ray_storage(tmp_path)
    assert list(tmp_path.iterdir()) == []
    empty_ray_storage(tmp_path)
    (tmp_path / "ray").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="ray is in the way of Ray and cannot be removed; move it"):
        empty_ray_storage(tmp_path)
