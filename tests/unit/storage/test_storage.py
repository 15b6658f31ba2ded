from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from distill_ray.errors import CorpusError
from distill_ray.storage.storage import Storage, open_storage


def remote(folder: Path) -> Storage:
    """A file system without local paths, as an object store is seen."""
    inner = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
    inner.create_dir("c/shards")
    return Storage(filesystem=inner, root="c", uri="sim://c", local=None)


@pytest.mark.parametrize("kind", ["path", "file-uri", "remote"])
def test_what_is_written_is_read(tmp_path: Path, kind: str) -> None:
    where = {"path": str(tmp_path), "file-uri": f"file://{tmp_path}"}
    storage = remote(tmp_path) if kind == "remote" else open_storage(where[kind])
    with storage.writing("shards/a") as stream:
        stream.write(b"hello")
    assert storage.names("shards") == {"a": 5}
    assert storage.read_bytes("shards/a") == b"hello"
    assert storage.read_bytes("shards/b") is None
    assert storage.open("shards/a").read_at(3, 1) == b"ell"
    storage.remove("shards/a")
    assert storage.names("shards") == {}
    assert storage.names("never") == {}


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with storage.writing("a") as stream:
        stream.write(b"old")

    def fail() -> None:
        with storage.writing("a") as stream:
            stream.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert storage.read_bytes("a") == b"old"
    assert set(storage.names()) == {"a"}


def test_errors_are_sentences_without_credentials(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"ftp://\*\*\*@host/x has credentials in it"):
        open_storage("ftp://user:secret@host/x")
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(CorpusError, match="cannot write the corpus at"),
        open_storage(tmp_path / "file").writing("a"),
    ):
        pass


class Listing:
    """An object store, whose keys may be anything."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def get_file_info(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return [pafs.FileInfo(f"{selector.base_dir}/{key}", pafs.FileType.File, size=1) for key in self.keys]


@pytest.mark.parametrize("key", ["../../x", "a/../../x", "/etc/x", "a//x", "C:/x", "a\nb", "a\\b"])
def test_names_that_lead_out_of_the_folder_are_errors_however_they_come(tmp_path: Path, key: str) -> None:
    listed = Storage(filesystem=Listing("fine", key), root="bucket", uri="s3://bucket", local=None)
    with pytest.raises(CorpusError, match=r"s3://bucket holds the name .*, which cannot be used"):
        listed.files()
    storage = open_storage(tmp_path / "folder")
    calls = (storage.read_bytes, storage.open, storage.remove, storage.entry, storage.names, storage.files)
    for call in calls:
        with pytest.raises(CorpusError, match="which cannot be used"):
            call(key)
    with pytest.raises(CorpusError, match="which cannot be used"), storage.writing(key):
        pass
    with pytest.raises(CorpusError, match="which cannot be used"):
        storage.download(key, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_waits_for_its_holder(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    waited = threading.Event()
    with (tmp_path / ".lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def enter() -> None:
            with storage.lock(waited.set):
                (tmp_path / "entered").touch()

        thread = threading.Thread(target=enter)
        thread.start()
        assert waited.wait(10)
        assert not (tmp_path / "entered").exists()
    thread.join(10)
    assert (tmp_path / "entered").exists()


def test_a_link_at_a_name_that_could_be_guessed_is_not_written_through(tmp_path: Path) -> None:
    folder, mine = tmp_path / "folder", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("precious")
    (folder / ".a.partial").symlink_to(mine)
    (folder / "a").symlink_to(mine)
    with open_storage(folder).writing("a") as stream:
        stream.write(b"new")
    assert (mine.read_text(), (folder / "a").read_bytes()) == ("precious", b"new")
    (folder / "a").unlink()
    (folder / "a").symlink_to(mine)
    open_storage(folder).download("a", folder / "b")
    (folder / "c").symlink_to(mine)
    with open_storage(folder).writing("source") as stream:
        stream.write(b"other")
    open_storage(folder).download("source", folder / "c")
    assert (mine.read_text(), (folder / "c").read_bytes()) == ("precious", b"other")


def test_two_writers_of_one_name_never_mix(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with storage.writing("a") as first, storage.writing("a") as second:
        first.write(b"first" * 10)
        second.write(b"second")
    assert storage.read_bytes("a") == b"first" * 10
    assert set(storage.names()) == {"a"}


def test_a_download_has_the_time_of_what_it_was_made_from_and_leaves_nothing_when_it_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = remote(tmp_path / "there")
    with storage.writing("a") as stream:
        stream.write(b"content")
    storage.download("a", tmp_path / "here" / "a")
    entry = storage.entry("a")
    assert entry is not None
    assert (tmp_path / "here" / "a").stat().st_mtime_ns == entry.written_ns
    monkeypatch.setattr(Storage, "_read", lambda self, stream: b"")
    with pytest.raises(CorpusError, match="a at sim://c was cut off: 0 of 7 bytes came"):
        storage.download("a", tmp_path / "here" / "a")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "here").iterdir()] == [("a", b"content")]
