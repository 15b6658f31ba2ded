from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distill_ray.corpus import shards
from distill_ray.corpus.manifest import ShardInfo
from distill_ray.corpus.shards import ShardReader, ShardWriter, shard_name
from distill_ray.errors import CorpusError
from distill_ray.storage.storage import Storage, open_storage


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32_768, 32_768, (channels, samples)).astype(np.int16)


def written(storage: Storage, parts: list[np.ndarray]) -> ShardInfo:
    with ShardWriter(storage, "a.arrow", channels=2) as writer:
        for part_CT in parts:
            writer.append(part_CT)
    return writer.info


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BATCH_ROWS", 64)


@pytest.mark.parametrize("sizes", [[1_000], [1] * 130, [64, 64], [63, 1, 65, 500, 3], [10]])
def test_any_cut_into_blocks_reads_back(tmp_path: Path, sizes: list[int]) -> None:
    storage, pcm_CT = open_storage(tmp_path), noise(sum(sizes))
    info = written(storage, np.split(pcm_CT, np.cumsum(sizes)[:-1], axis=1))
    assert info.rows == sum(sizes)
    assert info.bytes == (tmp_path / "shards" / "a.arrow").stat().st_size
    reader = ShardReader(storage, info, channels=2)
    for start in range(0, info.rows, 37):
        for count in (1, info.rows - start):
            out_CT = np.zeros((2, count), np.int16)
            reader.read_into(out_CT, start)
            np.testing.assert_array_equal(out_CT, pcm_CT[:, start : start + count])


def test_the_bytes_do_not_depend_on_the_blocks(tmp_path: Path) -> None:
    pcm_CT = noise(500)
    written(open_storage(tmp_path / "x"), [pcm_CT])
    written(open_storage(tmp_path / "y"), np.split(pcm_CT, [3, 100, 101], axis=1))
    contents = [(tmp_path / name / "shards" / "a.arrow").read_bytes() for name in "xy"]
    assert contents[0] == contents[1]


def test_it_is_a_plain_arrow_file(tmp_path: Path) -> None:
    pcm_CT = noise(200)
    written(open_storage(tmp_path), [pcm_CT])
    table = pa.ipc.open_file(tmp_path / "shards" / "a.arrow").read_all()
    assert table.column_names == ["channel_0", "channel_1"]
    np.testing.assert_array_equal(table["channel_1"].to_numpy(), pcm_CT[1])


def test_an_error_leaves_no_shard(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)

    def fail() -> None:
        with ShardWriter(storage, "a.arrow", channels=2) as writer:
            writer.append(noise(500))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert storage.names("shards") == {}


def test_damaged_and_foreign_shards_are_refused(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    info = written(storage, [noise(500)])
    with pytest.raises(CorpusError, match="not what the manifest says"):
        ShardReader(storage, info, channels=1)
    with pytest.raises(CorpusError, match="not what the manifest says"):
        ShardReader(storage, replace(info, rows=700), channels=2)
    (tmp_path / "shards" / "a.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(CorpusError, match="is damaged"):
        ShardReader(storage, info, channels=2)


def test_names_tell_content_and_format_not_order() -> None:
    assert shard_name(["a", "b"], 8_000, 1) == shard_name(["b", "a"], 8_000, 1)
    names = {shard_name(["a"], 8_000, 1), shard_name(["a"], 8_000, 2), shard_name(["a"], 9_000, 1)}
    assert len(names | {shard_name(["a", "b"], 8_000, 1)}) == 4
