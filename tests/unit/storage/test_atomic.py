from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from distill_ray.errors import AudioError, BundleError
from distill_ray.storage.atomic import atomic_file, newest_folder, replace_folder


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


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


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
