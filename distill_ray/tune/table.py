"""The trials of a search as one Parquet file, for later analysis: one row a trial.

Scalar columns under the names of `TrialSpec` and `TrialRecord`, and `kbps`, `mel`, `worst_level` and
`worst_utilization` as the leaderboard has them; `overrides` as JSON; `depth_scores` and
`codebook_health` as lists of structs; `candidates` with the ranking's rows of the trial, each with
its `rank` (from 0) in the whole.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_ray.errors import CheckpointError, UsageError
from distill_ray.events.records import CandidateRow
from distill_ray.jsonable import parse_json
from distill_ray.storage.atomic import replacing
from distill_ray.tune.trial import TrialRecord, TrialSpec, restore

_MOST_TRIALS, _MOST_BYTES = 100_000, 1 << 30


def write_trials(path: Path, records: Sequence[TrialRecord], rows: Sequence[CandidateRow]) -> None:
    """Writes the trials and the ranking's rows, whose order is kept; replaces the file whole.

    Raises CheckpointError where it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([_columns(record, rows) for record in records], schema=_schema())
    try:
        with replacing(path) as file:
            pq.write_table(table, file)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}); make room or give another --out"
        ) from error


def read_trials(path: Path) -> tuple[tuple[TrialRecord, ...], tuple[CandidateRow, ...]]:
    """The trials in the order in which they were written, and the ranking's rows.

    Raises UsageError where the file is not one of `write_trials`.
    """
    import pyarrow as pa

    from distill_ray.storage.parquet import read_rows

    try:
        columns = list(read_rows(path, None, most_rows=_MOST_TRIALS, most_bytes=_MOST_BYTES))
        records = [_record(row) for row in columns]
        ranked = sorted(
            (item for row in columns for item in row["candidates"]), key=lambda item: item["rank"]
        )
        rows = [typing.cast(CandidateRow, restore(item, CandidateRow, "candidates")) for item in ranked]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UsageError(
            f"{path} is not a readable table of trials ({error}); give a search's own file"
        ) from error
    return tuple(records), tuple(rows)


def _columns(record: TrialRecord, rows: Sequence[CandidateRow]) -> dict[str, Any]:
    values = dataclasses.asdict(record)
    spec = values.pop("spec")
    spec["overrides"] = json.dumps(spec["overrides"], sort_keys=True)
    own = [
        {**dataclasses.asdict(row), "rank": rank}
        for rank, row in enumerate(rows)
        if row.trial == record.spec.id
    ]
    return {**spec, **values, **{name: getattr(record, name) for name in _DERIVED}, "candidates": own}


# What would take a reader of the table a formula.
_DERIVED: dict[str, Any] = {"kbps": float, "mel": float, "worst_level": int, "worst_utilization": float}


def _record(row: dict[str, Any]) -> TrialRecord:
    spec = {item.name: row[item.name] for item in dataclasses.fields(TrialSpec)}
    spec["overrides"] = parse_json(spec["overrides"])
    return typing.cast(TrialRecord, restore({**row, "spec": spec}, TrialRecord, "record"))


def _schema() -> Any:
    import pyarrow as pa

    spec, record = typing.get_type_hints(TrialSpec), typing.get_type_hints(TrialRecord)
    del record["spec"]
    row = _arrow_type(CandidateRow)
    hints = {**spec, "overrides": str, **record, **_DERIVED}
    columns = {name: _arrow_type(hint) for name, hint in hints.items()}
    columns["candidates"] = pa.list_(pa.struct([*row, pa.field("rank", pa.int64())]))
    return pa.schema(list(columns.items()))


def _arrow_type(hint: Any) -> Any:
    import pyarrow as pa

    if isinstance(hint, types.UnionType):  # every column may be empty
        return _arrow_type(next(option for option in typing.get_args(hint) if option is not type(None)))
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in typing.get_type_hints(hint).items()])
    return {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}[hint]
