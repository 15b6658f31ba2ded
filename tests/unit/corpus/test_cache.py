from __future__ import annotations

import os
import threading
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from distill_ray.corpus.cache import LIMIT_VARIABLE, CachedStorage, cached
from distill_ray.errors import CorpusError
from distill_ray.storage.storage import Storage


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def shard(number: int) -> str:
    return f"{number:032x}.arrow"


def corpus(tmp_path: Path, name: str, *sizes: int) -> CachedStorage:
    """A corpus of shards of `sizes` bytes, on a file system that has no local paths."""
    (tmp_path / "far" / name / "shards").mkdir(parents=True)
    for number, size in enumerate(sizes):
        (tmp_path / "far" / name / "shards" / shard(number)).write_bytes(bytes([number]) * size)
    filesystem = pafs.SubTreeFileSystem(str(tmp_path / "far"), pafs.LocalFileSystem())
    return cached(Storage(filesystem=filesystem, root=name, uri=f"sim://{name}", local=None))


def test_a_shard_is_loaded_once(tmp_path: Path) -> None:
    here = corpus(tmp_path, "a", 10, 20)
    assert here.open(f"shards/{shard(1)}").read() == b"\1" * 20
    (tmp_path / "far" / "a" / "shards" / shard(1)).unlink()
    assert here.open(f"shards/{shard(1)}").read() == b"\1" * 20
    assert sorted(path.name for path in here.folder.glob("[!.]*")) == [shard(1)]


def test_a_damaged_or_replaced_shard_is_loaded_again(tmp_path: Path) -> None:
    here = corpus(tmp_path, "a", 10)
    here.fetch([shard(0)])
    (here.folder / shard(0)).write_bytes(b"short")
    assert here.open(f"shards/{shard(0)}").read() == b"\0" * 10
    there = tmp_path / "far" / "a" / "shards" / shard(0)
    there.write_bytes(b"9" * 10)
    os.utime(there, (1_000_000_000, 1_000_000_000))
    with pytest.raises(CorpusError, match="was changed while it was read"):
        (here.folder / shard(0)).unlink() or here.fetch([shard(0)])
    again = cached(Storage(filesystem=here.filesystem, root="a", uri="sim://a", local=None))
    assert again.open(f"shards/{shard(0)}").read() == b"9" * 10


def test_the_limit_takes_what_was_not_used_for_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, third = (corpus(tmp_path, name, 400_000) for name in "abc")
    for here in (new, old, new):
        here.fetch([shard(0)])
    monkeypatch.setenv(LIMIT_VARIABLE, "0.001")
    third.fetch([shard(0)])
    assert [(here.folder / shard(0)).exists() for here in (old, new, third)] == [False, True, True]
    big = corpus(tmp_path, "big", 900_000, 900_000)
    with pytest.raises(CorpusError, match=rf"lacks 0\.00 GB .*{LIMIT_VARIABLE} another limit"):
        big.fetch([shard(0), shard(1)])
    monkeypatch.setenv(LIMIT_VARIABLE, "much")
    with pytest.raises(CorpusError, match="no number of gigabytes"):
        big.fetch([shard(0)])


def test_ranks_of_a_node_share_what_one_has_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = corpus(tmp_path, "a", *[1000] * 20)
    loaded: list[str] = []
    original = Storage.download

    def download(self: Storage, name: str, target: Path) -> None:
        loaded.append(name)
        original(self, name, target)

    monkeypatch.setattr(Storage, "download", download)
    ranks = [threading.Thread(target=here.fetch, args=(list(here.shards),)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(loaded) == 20


def test_only_shards_in_folders_of_the_cache_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = corpus(tmp_path, "a", 400_000), corpus(tmp_path, "b", 400_000)
    old.fetch([shard(0)])
    root, mine = old.folder.parent, tmp_path / "mine"
    mine.mkdir()
    kept = [old.folder / "notes.txt", root / "mine" / shard(7), mine / shard(8)]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 400_000)
        os.utime(path, (1, 1))  # used for longest
    (root / ("0" * 24)).symlink_to(mine)
    monkeypatch.setenv(LIMIT_VARIABLE, "0.0005")
    new.fetch([shard(0)])
    assert all(path.exists() for path in kept)
    assert not (old.folder / shard(0)).exists()
