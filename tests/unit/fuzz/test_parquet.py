"""Cached codes and tables of trials: 500 mutated files of each kind, and structured hostile ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distill_ray.errors import BundleError, UsageError
from distill_ray.prior import codes
from distill_ray.prior.codes import CodeSequence, load_code_sequences
from distill_ray.tune.table import read_trials, write_trials
from distill_ray.tune.trial import TrialRecord, make_spec
from tests.unit.fuzz.conftest import CASES


def sequence(index: int, frames: int = 40) -> CodeSequence:
    drawn = np.random.default_rng(index).integers(0, 16, (2, frames)).astype(np.int16)
    return CodeSequence(sha256=f"{index:064x}", split="train", codes_QT=torch.from_numpy(drawn))


def content_of(store: codes.CodeStore) -> dict[str, list[list[int]]]:
    return {each.sha256: each.codes_QT.tolist() for each in store.sequences}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    codes._write_shard(tmp_path, [sequence(index) for index in range(5)])
    (path,) = tmp_path.glob("*.parquet")
    return path


def test_mutated_codes_are_read_right_or_refused(shard, chance, mutated, outcome):
    content = shard.read_bytes()

    def read() -> codes.CodeStore:
        return load_code_sequences(shard.parent, codebook_size=16, num_quantizers=2)

    right = content_of(read())
    refused = 0
    for _ in range(CASES):
        shard.write_bytes(mutated(content, chance))
        found = outcome(read)
        refused += isinstance(found, BundleError)
        assert isinstance(found, BundleError) or content_of(found).items() <= right.items()
    assert refused > CASES // 2


@pytest.mark.parametrize("what", ["dictionary", "rows", "types", "version", "frames"])
def test_hostile_codes_are_refused(shard, outcome, what):
    table = pq.read_table(shard)
    rows = table.to_pylist()
    if what == "dictionary":  # the same codes a thousand times, which the file holds once
        data = bytes(1 << 16)
        row = {**rows[0], "frames": 1 << 14, "codes": data, "checksum": codes._checksum("", "train", data)}
        rows = [{**row, "sha256": ""}] * 1_000
    elif what == "rows":
        rows = [{**rows[0], "sha256": None}] * 100_000
    elif what == "frames":
        rows[0]["frames"] = 1 << 62
    schema = table.schema
    if what == "types":
        rows = [{**row, "frames": str(row["frames"])} for row in rows]
        schema = schema.set(2, pa.field("frames", pa.string()))
    if what == "version":
        schema = schema.with_metadata({b"format": b"distill-ray codes 2"})
    shard.unlink()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), shard, compression="zstd")
    found = outcome(lambda: load_code_sequences(shard.parent, codebook_size=16, num_quantizers=2))
    assert isinstance(found, BundleError)


def test_a_mutated_table_of_trials_is_read_or_refused(tmp_path, chance, mutated, outcome):
    path = tmp_path / "trials.parquet"
    specs = [make_spec("search", 16, (depth,), {"training.lr": 0.1}) for depth in (1, 2)]
    write_trials(path, [TrialRecord(spec=spec, state="completed") for spec in specs], ())
    content = path.read_bytes()
    refused = 0
    for _ in range(CASES):
        path.write_bytes(mutated(content, chance))
        found = outcome(lambda: read_trials(path))
        refused += isinstance(found, UsageError)
        assert isinstance(found, UsageError) or len(found) == 2
    assert refused > CASES // 4
