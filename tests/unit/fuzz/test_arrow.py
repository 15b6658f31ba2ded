"""Shards of a corpus: 500 mutated ones and the structured hostile ones of the security review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill_ray.corpus import shards
from distill_ray.corpus.manifest import ShardInfo
from distill_ray.corpus.shards import ShardReader, ShardWriter
from distill_ray.errors import CorpusError, DistillError
from distill_ray.storage.storage import open_storage
from tests.unit.fuzz.conftest import CASES

ROWS, BATCH = 500, 128
PCM_CT = np.arange(2 * ROWS, dtype=np.int16).reshape(2, ROWS)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BATCH_ROWS", BATCH)


@pytest.fixture
def info(tmp_path: Path) -> ShardInfo:
    with ShardWriter(open_storage(tmp_path), "a.arrow", channels=2) as writer:
        writer.append(PCM_CT)
    return writer.info


def read(folder: Path, info: ShardInfo) -> np.ndarray:
    out_CT = np.zeros((2, info.rows), dtype=np.int16)
    ShardReader(open_storage(folder), info, channels=2).read_into(out_CT, 0)
    return out_CT


def test_a_mutated_shard_is_read_or_refused(tmp_path, info, chance, mutated, outcome):
    path = tmp_path / "shards" / "a.arrow"
    content = path.read_bytes()
    refused = 0
    for _ in range(CASES):
        path.unlink()  # a mapped file must keep its content
        path.write_bytes(mutated(content, chance))
        found = outcome(lambda: read(tmp_path, info))
        refused += isinstance(found, DistillError)
        assert isinstance(found, CorpusError) or found.shape == PCM_CT.shape
    assert refused > CASES // 4


def hostile(path: Path, batches: list[Any], **options: Any) -> ShardInfo:
    path.unlink(missing_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches[0].schema, **options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return ShardInfo(name="a.arrow", rows=ROWS, bytes=path.stat().st_size)


def batch(rows: int, kind: Any = None, columns: int = 2) -> Any:
    made = pa.array(np.zeros(rows, dtype=np.int16)).cast(kind or pa.int16())
    return pa.record_batch([made] * columns, names=[f"channel_{index}" for index in range(columns)])


ALL = [128, 128, 128, 116]


@pytest.mark.parametrize(
    ("batches", "options"),
    [
        ([batch(rows) for rows in (128, 0, 128, 244)], {}),
        ([batch(rows) for rows in (128, 129, 128, 115)], {}),
        ([batch(rows) for rows in (128, 128, 128, 128)], {}),
        ([batch(rows) for rows in (128, 128, 128, 1)], {}),
        ([batch(rows) for rows in (500,)], {}),
        ([batch(rows, pa.int32()) for rows in ALL], {}),
        ([batch(rows, pa.string()) for rows in ALL], {}),
        ([batch(rows, columns=3) for rows in ALL], {}),
        ([batch(rows, columns=1) for rows in ALL], {}),
        ([batch(1 << 20) for _ in ALL], {"options": pa.ipc.IpcWriteOptions(compression="zstd")}),
        ([batch(rows) for rows in ALL], {"options": pa.ipc.IpcWriteOptions(compression="lz4")}),
    ],
    ids=[
        *("an empty batch", "a longer batch", "more rows in the end", "fewer rows in the end", "one batch"),
        *("other numbers", "text", "more channels", "fewer channels", "a bomb", "compressed"),
    ],
)
def test_a_shard_that_is_not_what_it_should_be_is_refused(tmp_path, info, outcome, batches, options):
    path = tmp_path / "shards" / "a.arrow"
    made = hostile(path, batches, **options)
    assert isinstance(outcome(lambda: read(tmp_path, made)), CorpusError)


def test_nulls_are_refused(tmp_path, info, outcome):
    path = tmp_path / "shards" / "a.arrow"
    gap = pa.array([None] + [1] * 127, type=pa.int16())
    with_gap = pa.record_batch([gap, gap], names=["channel_0", "channel_1"])
    made = hostile(path, [with_gap, *(batch(rows) for rows in ALL[1:])])
    assert isinstance(outcome(lambda: read(tmp_path, made)), CorpusError)


def test_more_rows_than_the_file_has_are_refused(tmp_path, info, outcome):
    assert np.array_equal(outcome(lambda: read(tmp_path, info)), PCM_CT)
    found = outcome(lambda: read(tmp_path, replace(info, rows=ROWS + BATCH)))
    assert isinstance(found, CorpusError)
