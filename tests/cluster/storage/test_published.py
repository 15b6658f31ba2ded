"""Checkpoints at a URI: cut on their way there, and of two machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_ray.errors import CheckpointError
from distill_ray.storage.storage import open_storage
from distill_ray.storage.uploaded import POINTER, UploadedCheckpoints


def names(uri: str) -> list[str]:
    return sorted(open_storage(uri).files())


def state(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "state").write_bytes(content)

    return write


def test_a_checkpoint_that_is_cut_on_its_way_is_never_taken_for_one(s3: Any, tmp_path: Path) -> None:
    uri = "s3://bucket/cut/checkpoints"

    here = UploadedCheckpoints(tmp_path / "here", uri, patience_s=30.0)
    here.settle()
    here.keep(state(b"1" * 9_000_000))
    here.flush()
    before = [name for name in names(uri) if name.endswith(("state", POINTER))]
    s3.cut = lambda method, path: method == "PUT" and path.endswith("/state")
    here.keep(state(b"2" * 9_000_000))
    impatient = UploadedCheckpoints(tmp_path / "here", uri, patience_s=2.0)
    impatient.settle()
    with pytest.raises(CheckpointError):
        impatient.flush()
    impatient.close()
    assert [name for name in names(uri) if name.endswith(("state", POINTER))] == before
    there = UploadedCheckpoints(tmp_path / "there", uri, patience_s=5.0)
    there.settle()
    assert (there.latest / "state").read_bytes()[:1] == b"1"

    s3.cut = lambda method, path: False
    here.flush()
    here.close()
    there.settle()
    assert (there.latest / "state").read_bytes() == b"2" * 9_000_000
    assert there.newest_name() == here.newest_name()
    assert {notice.level for notice in here.notices()} == {"warning", "info"}


def test_what_another_machine_made_goes_first(s3: Any, tmp_path: Path) -> None:
    uri = "s3://bucket/two/checkpoints"
    one, two = (UploadedCheckpoints(tmp_path / name, uri, patience_s=10.0) for name in ("one", "two"))

    one.keep(state(b"a"))
    one.flush()
    two.settle()
    two.keep(state(b"b"))
    two.flush()
    one.settle()
    assert (one.latest / "state").read_text() == "b"
    assert one.newest_name().startswith("000002-")
    assert len({name.partition("/")[0] for name in names(uri)}) == 3  # this one, the one before, the pointer
    for name in names(uri):
        open_storage(uri).remove(name)
    one.settle()
    assert one.newest() is None  # somebody has deleted the run
    one.close()
    two.close()
