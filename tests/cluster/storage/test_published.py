"""Checkpoints at a URI: cut on their way there, and of two machines."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_ray.errors import CheckpointError
from distill_ray.storage.storage import open_storage
from distill_ray.storage.uploaded import POINTER, UploadedCheckpoints

ROOT = Path(__file__).parents[3]


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


def upload(here: Path, uri: str, content: str) -> None:
    checkpoints = UploadedCheckpoints(here, uri, patience_s=200.0)
    checkpoints.settle()
    assert checkpoints.keep(state(content.encode() * 9_000_000))
    checkpoints.flush()
    checkpoints.close()


@pytest.mark.slow
def test_a_kill_at_every_request_that_changes_the_store(s3: Any, tmp_path: Path) -> None:
    """Another machine finds the old checkpoint or the new one, and the killed one goes on."""
    changes = 0

    def is_killed(here: Path, uri: str, killed_at: int) -> bool:
        nonlocal changes
        changes = 0
        program = "import sys; from tests.cluster.storage.test_published import *; "
        program += "upload(Path(sys.argv[1]), *sys.argv[2:])"
        process = subprocess.Popen([sys.executable, "-c", program, here, uri, "2"], cwd=ROOT)

        def cut(method: str, path: str) -> bool:
            nonlocal changes
            changes += method not in ("GET", "HEAD")
            if changes < killed_at:
                return False
            process.kill()
            process.wait()
            return True

        s3.cut = cut
        code = process.wait(300)
        s3.cut = lambda method, path: False
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def found(uri: str, number: int) -> str:
        there = UploadedCheckpoints(tmp_path / f"there{number}", uri, patience_s=60.0)
        there.settle()
        there.close()
        content = (there.latest / "state").read_bytes()
        assert content == content[:1] * 9_000_000
        return content[:1].decode()

    seen = []
    for number in range(1, 100):
        uri, here = f"s3://bucket/killed{number}/checkpoints", tmp_path / f"here{number}"
        upload(here, uri, "0")
        upload(here, uri, "1")
        if not is_killed(here, uri, number):
            break
        seen.append(found(uri, number))
        upload(here, uri, "3")
        assert found(uri, number) == "3"
        assert len({name.partition("/")[0] for name in names(uri)}) == 3
    # The new one counts once the pointer names it; what is too old is removed after that.
    assert seen == sorted(seen)
    assert {*seen} == {"1", "2"}
