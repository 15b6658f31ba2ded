from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from distill_ray.errors import AudioError, BundleError
from distill_ray.storage import atomic
from distill_ray.storage.atomic import (
    atomic_file,
    is_temporary,
    newest_folder,
    remove_folder,
    replace_folder,
    replacing,
)

ROOT = Path(atomic.__file__).parents[2]


def test_it_replaces_the_whole_file_with_the_umask_s_mode(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    old = os.umask(0o027)
    try:
        for content in (b"long content", b"short"):
            with atomic_file(path) as file:
                file.write(content)
            assert path.read_bytes() == content
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def linked(folder: Path) -> tuple[Path, Path]:
    target, link = folder / "target", folder / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    return target, link


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target, link = linked(tmp_path)
    with atomic_file(link) as file:
        file.write(b"new")
    assert not link.is_symlink()
    assert (link.read_bytes(), target.read_bytes()) == (b"new", b"old")


def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    target, link = linked(tmp_path)
    with atomic_file(link, follow_link=True) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_what_lies_at_the_temporary_name_is_neither_followed_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda count: "0" * 2 * count)
    trap, victim = tmp_path / f".distill-{'0' * 16}.tmp", tmp_path / "victim"
    assert is_temporary(trap.name)
    if kind == "file":
        trap.write_text("precious")
    else:
        trap.symlink_to(victim)
    if kind == "link":
        victim.write_text("precious")
    with (
        pytest.raises(BundleError, match=r"file cannot be written \(File exists\)"),
        atomic_file(tmp_path / "file") as file,
    ):
        file.write(b"overwritten")
    assert not (tmp_path / "file").exists()
    assert os.path.lexists(trap)
    assert kind == "dangling" or trap.read_text() == "precious"
    assert victim.exists() == (kind == "link")


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with atomic_file(path) as file:
        (temporary,) = [item for item in tmp_path.iterdir() if is_temporary(item.name)]
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        file.write(b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


def test_file_and_folder_are_on_the_disk_before_and_after_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append("move")
        return replace(path, target)

    monkeypatch.setattr(atomic.os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    with replacing(tmp_path / "file") as file:
        file.write(b"x")
    assert done == ["file", "move", "folder"]


def test_a_file_system_that_cannot_sync_folders_is_no_error_but_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(number: int) -> None:
        def fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(atomic.os, "fsync", fsync)

    answer(errno.EINVAL)
    with replacing(tmp_path / "file") as file:
        file.write(b"x")
    answer(errno.EIO)
    with pytest.raises(OSError, match="Input/output"), replacing(tmp_path / "file") as file:
        file.write(b"x")


def test_what_cannot_be_replaced_is_refused_in_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BundleError, match="not a regular file"), atomic_file(path):
            pass
    (tmp_path / "file").write_bytes(b"")
    below = tmp_path / "file" / "below"
    with pytest.raises(AudioError, match="cannot be written") as caught, atomic_file(below, error=AudioError):
        pass
    assert "\n" not in str(caught.value)


def test_a_name_of_the_longest_length_works(tmp_path: Path) -> None:
    with atomic_file(tmp_path / ("n" * 255)) as file:
        file.write(b"x")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


def test_concurrent_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([index]) * 100_000 for index in range(8)]
    seen: list[bytes] = []

    def write(content: bytes) -> None:
        for _ in range(5):
            with atomic_file(path) as file:
                file.write(content)
            seen.append(path.read_bytes())

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert set(seen) <= set(contents)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "latest"
    replace_folder(folder, lambda new: (new / "f").write_text("old") and None)

    def fail(new: Path) -> None:
        (new / "f").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_folder(folder, fail)
    assert (folder / "f").read_text() == "old"
    replace_folder(folder, lambda new: (new / "f").write_text("new") and None)
    assert (folder / "f").read_text() == "new"


def test_a_folder_moved_aside_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "latest.old").mkdir()
    assert newest_folder(tmp_path / "latest") == tmp_path / "latest.old"
    (tmp_path / "latest").mkdir()
    assert newest_folder(tmp_path / "latest") == tmp_path / "latest"


CRASHES = """
import os, sys
from pathlib import Path
from distill_ray.storage.atomic import remove_folder, replace_folder

def write(new):
    for name, content in (("a", b"new" * 50_000), ("b", b"new")):
        (new / name).write_bytes(content)

step, folder, action = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
seen = 0

def count(event, arguments):
    global seen
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        if seen == step:
            os._exit(9)
        seen += 1

fsync = os.fsync
def counted_fsync(descriptor):
    count("open", ())
    fsync(descriptor)
os.fsync = counted_fsync
sys.addaudithook(count)
replace_folder(folder, write) if action == "replace" else remove_folder(folder)
os._exit(0)
"""


def state_of(folder: Path) -> dict[str, bytes] | None:
    newest = newest_folder(folder)
    return None if newest is None else {path.name: path.read_bytes() for path in newest.iterdir()}


@pytest.mark.parametrize("action", ["replace", "remove"])
def test_a_process_that_ends_at_any_step_leaves_all_of_the_old_or_all_of_the_new_folder(
    tmp_path: Path, action: str
) -> None:
    folder = tmp_path / "latest"
    old, new = {"a": b"old", "c": b"old"}, {"a": b"new" * 50_000, "b": b"new"}
    after = new if action == "replace" else None
    states = []
    for step in range(100):
        if folder.exists() or newest_folder(folder):  # what the last crash has left is no obstacle
            remove_folder(folder)
        replace_folder(folder, lambda made: [(made / name).write_bytes(old[name]) for name in old] and None)
        script = [sys.executable, "-c", CRASHES, str(step), str(folder), action]
        ended = subprocess.run(script, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
        states.append(state_of(folder))
        if ended.returncode == 0:
            break
        assert ended.returncode == 9
    assert ended.returncode == 0
    assert len(states) > (12 if action == "replace" else 3)
    assert all(state in (old, after) for state in states)
    assert (states[0], states[-1]) == (old, after)
    assert sorted(states, key=lambda state: state == after) == states  # once new, it stays so


def test_the_new_folder_is_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a power cut asks for it, which keeps of unsynced files nothing."""
    folder, done = tmp_path / "latest", []
    replace_folder(folder, lambda made: (made / "a").write_text("old") and None)
    fsync, rename, rmtree = os.fsync, Path.rename, atomic.shutil.rmtree

    def note_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(tmp_path)}")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        done.append(f"{path.name} to {target.name}")
        return rename(path, target)

    def note_rmtree(path: Path) -> None:
        done.append(f"remove {path.name}")
        rmtree(path)

    def write(made: Path) -> None:
        (made / "below").mkdir()
        (made / "below" / "b").write_text("new")
        (made / "a").write_text("new")

    monkeypatch.setattr(atomic.os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(atomic.shutil, "rmtree", note_rmtree)
    replace_folder(folder, write)
    moved = ["latest to latest.old", "latest.new to latest", "sync .", "remove latest.old"]
    assert done[-4:] == moved
    assert set(done[:-4]) == {
        "sync latest.new/below/b",
        "sync latest.new/below",
        "sync latest.new/a",
        "sync latest.new",
    }


@pytest.mark.parametrize("aside", ["", ".new", ".old"])
@pytest.mark.parametrize("action", ["replace", "remove"])
def test_a_link_in_the_way_of_a_folder_is_neither_followed_nor_removed(
    tmp_path: Path, aside: str, action: str
) -> None:
    folder, mine = tmp_path / "latest", tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    if aside:
        replace_folder(folder, lambda made: (made / "a").write_text("old") and None)
    (tmp_path / f"latest{aside}").symlink_to(mine)
    act = (
        remove_folder
        if action == "remove"
        else partial(replace_folder, write=lambda made: (made / "a").write_text("new") and None)
    )
    with pytest.raises(OSError, match="symbolic link"):
        act(folder)
    assert (tmp_path / f"latest{aside}").is_symlink()
    assert (mine / "precious").read_text() == "x"
    assert state_of(folder) == ({"a": b"old"} if aside else {"precious": b"x"})
