from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import CheckpointError, UsageError
from distill_ray.tune.ranking import candidates
from distill_ray.tune.table import read_trials, write_trials


def test_a_search_is_read_back_equal(world: Any, search: Any, rule: Any, tmp_path: Path) -> None:
    sweep = SweepConfig(lrs=(1e-3, 3e-5), sizes=("tiny",))
    records = search(world(5, crashes=0.2, prunes=0.1), sweep)
    rows = candidates(records, sweep, rule)
    write_trials(tmp_path / "new" / "trials.parquet", records, rows)
    assert read_trials(tmp_path / "new" / "trials.parquet") == (tuple(records), rows)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["trials.parquet"]


def test_empty_figures_and_nan_stay_apart(record: Any, tmp_path: Path) -> None:
    losses = (None, math.nan, math.inf, 5.0)
    records = [record(2 ** (4 + at), {2: 1.0}, val_loss=loss) for at, loss in enumerate(losses)]
    write_trials(tmp_path / "t.parquet", records, ())
    assert repr([item.val_loss for item in read_trials(tmp_path / "t.parquet")[0]]) == repr(list(losses))
    write_trials(tmp_path / "t.parquet", [], ())
    assert read_trials(tmp_path / "t.parquet") == ((), ())


def test_others_can_read_the_columns(record: Any, rule: Any, tmp_path: Path) -> None:
    records = [record(256, {2: 9.0, 8: 5.0}, gpu_seconds=2.5), record(64, {2: 9.5, 8: 6.0}, gpu_seconds=4.0)]
    write_trials(tmp_path / "t.parquet", records, candidates(records, SweepConfig(), rule))
    table = pq.read_table(tmp_path / "t.parquet")
    assert pc.sum(table["gpu_seconds"]).as_py() == 6.5
    assert table["codebook_size"].to_pylist() == [256, 64]
    assert table["depth_scores"][0].as_py() == [
        {"levels": 2, "val_loss": 9.0, "mel": 1.0},
        {"levels": 8, "val_loss": 5.0, "mel": 1.0},
    ]
    # What the leaderboard shows, so that nobody has to work it out of the lists.
    assert [round(rate, 4) for rate in table["kbps"].to_pylist()] == [5.5125, 4.1344]
    assert table["mel"].to_pylist() == [1.0, 1.0]
    assert table["worst_utilization"].to_pylist() == [item.worst_utilization for item in records]
    assert table["worst_level"].to_pylist() == [item.worst_level for item in records]
    chosen = [item["trial"] for row in table["candidates"].to_pylist() for item in row if item["chosen"]]
    assert chosen == ["k256-q8"]


def test_what_is_no_table_of_trials_is_refused(record: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(UsageError, match="not a readable table of trials"):
        read_trials(path)
    write_trials(path, [record(64, {2: 1.0})], ())
    table, whole = pq.read_table(path), path.read_bytes()
    for broken in (
        table.drop_columns(["state"]),
        table.drop_columns(["candidates"]),
        table.rename_columns([name[1:] for name in table.column_names]),
    ):
        pq.write_table(broken, path)
        with pytest.raises(UsageError, match="not a readable table of trials"):
            read_trials(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="not a readable table of trials"):
        read_trials(path)


def test_a_table_that_cannot_be_written_leaves_the_old_one(record: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_trials(path, [record(64, {2: 1.0})], ())
    assert list(tmp_path.iterdir()) == [path]
