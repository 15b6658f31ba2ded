"""Reading Parquet files that others may have written: a few rows at a time, within limits that are looked at
first, since a file of a megabyte can claim, and unpack to, any size.

The caches of codes (`prior/codes.py`) and the tables of trials (`tune/table.py`) are read through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.regular_file import open_regular

_FOOTER_STRING_BYTES, _FOOTER_ITEMS = 1 << 24, 1 << 16
_ROWS_AT_ONCE = 16


def read_rows(
    path: Path, schema: pa.Schema | None, *, most_rows: int, most_bytes: int
) -> Iterator[dict[str, Any]]:
    """The rows of the file; columns and metadata must be those of `schema`, where one is given.

    most_bytes: of all columns unpacked. Raises ValueError (as many of Arrow's errors are), ArrowException
    or OSError where the file cannot be read, is another table or is bigger.
    """
    with (
        open_regular(path) as source,
        pq.ParquetFile(
            source,
            thrift_string_size_limit=_FOOTER_STRING_BYTES,
            thrift_container_size_limit=_FOOTER_ITEMS,
        ) as file,
    ):
        found = file.schema_arrow
        if schema is not None and not found.equals(schema, check_metadata=True):
            raise ValueError("its columns are those of another version")
        facts = file.metadata
        unpacked = sum(facts.row_group(index).total_byte_size for index in range(facts.num_row_groups))
        if not (0 <= facts.num_rows <= most_rows and 0 <= unpacked <= most_bytes):
            raise ValueError(f"it claims {facts.num_rows} rows of {unpacked} bytes")
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            batch.validate(full=True)
            yield from batch.to_pylist()
