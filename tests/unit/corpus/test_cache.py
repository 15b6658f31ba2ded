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


def corpus(tmp_path: Path, name: str, *sizes: int) -> CachedStorage:
    """A corpus of shards of `sizes` bytes, on a file system that has no local paths."""
    (tmp_path / "far" / name / "shards").mkdir(parents=True)
    for number, size in enumerate(sizes):
        (tmp_path / "far" / name / "shards" / f"{number}.arrow").write_bytes(bytes([number]) * size)
    filesystem = pafs.SubTreeFileSystem(str(tmp_path / "far"), pafs.LocalFileSystem())
    return cached(Storage(filesystem=filesystem, root=name, uri=f"sim://{name}", local=None))


def test_a_shard_is_loaded_once(tmp_path: Path) -> None:
    here = corpus(tmp_path, "a", 10, 20)
    assert here.open("shards/1.arrow").read() == b"\1" * 20
    (tmp_path / "far" / "a" / "shards" / "1.arrow").unlink()
    assert here.open("shards/1.arrow").read() == b"\1" * 20
    assert sorted(path.name for path in here.folder.glob("[!.]*")) == ["1.arrow"]


def test_a_damaged_or_replaced_shard_is_loaded_again(tmp_path: Path) -> None:
    here = corpus(tmp_path, "a", 10)
    here.fetch(["0.arrow"])
    (here.folder / "0.arrow").write_bytes(b"short")
    assert here.open("shards/0.arrow").read() == b"\0" * 10
    there = tmp_path / "far" / "a" / "shards" / "0.arrow"
    there.write_bytes(b"9" * 10)
    os.utime(there, (1_000_000_000, 1_000_000_000))
    with pytest.raises(CorpusError, match="was changed while it was read"):
        (here.folder / "0.arrow").unlink() or here.fetch(["0.arrow"])
    again = cached(Storage(filesystem=here.filesystem, root="a", uri="sim://a", local=None))
    assert again.open("shards/0.arrow").read() == b"9" * 10


def test_the_limit_takes_what_was_not_used_for_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, third = (corpus(tmp_path, name, 400_000) for name in "abc")
    for here in (new, old, new):
        here.fetch(["0.arrow"])
    monkeypatch.setenv(LIMIT_VARIABLE, "0.001")
    third.fetch(["0.arrow"])
    assert [(here.folder / "0.arrow").exists() for here in (old, new, third)] == [False, True, True]
    big = corpus(tmp_path, "big", 900_000, 900_000)
    with pytest.raises(CorpusError, match=rf"lacks 0\.00 GB .*{LIMIT_VARIABLE} another limit"):
        big.fetch(["0.arrow", "1.arrow"])
    monkeypatch.setenv(LIMIT_VARIABLE, "much")
    with pytest.raises(CorpusError, match="no number of gigabytes"):
        big.fetch(["0.arrow"])


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
