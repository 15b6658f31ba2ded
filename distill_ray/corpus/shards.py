"""Arrow IPC files of int16 PCM: one column a channel, the samples of several recordings end to end.

Record batches all have `BATCH_ROWS` rows (the last may have fewer), so that a sample is found by division
and a window is read from one or two of them. `prepare.py` writes shards, `corpus.py` reads them.
Shape suffixes: C channels, T samples.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distill_ray.corpus.arrow_footer import refuse_compressed
from distill_ray.corpus.manifest import SHARD_FOLDER, ShardInfo
from distill_ray.errors import CorpusError
from distill_ray.storage.atomic import is_temporary
from distill_ray.storage.storage import Storage

BATCH_ROWS = 1 << 18
# A shard, and what a writer of version 0.1 that was killed left of one.
_OURS = re.compile(r"[0-9a-f]{32}\.arrow|\.[0-9a-f]{32}\.arrow\.partial")


def shard_name(members: Iterable[str], sample_rate: int, channels: int) -> str:
    """File name of the shard made from the sources with these sha256: the same for the same content."""
    identity = " ".join(["pcm 1", str(sample_rate), str(channels), *sorted(members)])
    return f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.arrow"


def is_shard_name(name: str) -> bool:
    """Whether only `ShardWriter` makes files of that name, finished ones or not."""
    return _OURS.fullmatch(name) is not None or is_temporary(name)


class ShardWriter:
    """Writes one shard; a context manager that leaves nothing behind when its block raises."""

    def __init__(self, storage: Storage, name: str, *, channels: int) -> None:
        self._storage, self._name = storage, name
        self._schema = pa.schema([(f"channel_{index}", pa.int16()) for index in range(channels)])
        self._pending: list[npt.NDArray[np.int16]] = []
        self._pending_rows = 0
        self._written_rows = 0
        self._bytes = 0

    def __enter__(self) -> ShardWriter:
        with contextlib.ExitStack() as stack:
            self._stream = stack.enter_context(self._storage.writing(f"{SHARD_FOLDER}/{self._name}"))
            self._writer = pa.ipc.new_file(self._stream, self._schema)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._flush(final=True)
            self._writer.close()
            self._bytes = self._stream.tell()

    @property
    def rows(self) -> int:
        """Samples of each channel so far."""
        return self._written_rows + self._pending_rows

    @property
    def info(self) -> ShardInfo:
        """The finished shard, for the manifest."""
        assert self._bytes, "the shard is not written yet"
        return ShardInfo(name=self._name, rows=self.rows, bytes=self._bytes)

    def append(self, pcm_CT: npt.NDArray[np.int16]) -> None:
        """Add samples [C, T]."""
        self._pending.append(pcm_CT)
        self._pending_rows += pcm_CT.shape[1]
        if self._pending_rows >= BATCH_ROWS:
            self._flush(final=False)

    def _flush(self, *, final: bool) -> None:
        if not self._pending:
            return
        rows_CT = np.concatenate(self._pending, axis=1)
        end = rows_CT.shape[1] if final else rows_CT.shape[1] // BATCH_ROWS * BATCH_ROWS
        for start in range(0, end, BATCH_ROWS):
            columns = [pa.array(row[start : min(end, start + BATCH_ROWS)]) for row in rows_CT]
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._pending = [rows_CT[:, end:].copy()]
        self._pending_rows = rows_CT.shape[1] - end
        self._written_rows += end


class ShardReader:
    """Random access to one shard; local shards are memory-mapped and cost no memory of their own."""

    def __init__(self, storage: Storage, info: ShardInfo, *, channels: int) -> None:
        self._where = f"the shard {info.name} of the corpus at {storage.uri}"
        self._rows = info.rows
        source = storage.open(f"{SHARD_FOLDER}/{info.name}")
        batches = -(-info.rows // BATCH_ROWS)
        with self._checked():
            refuse_compressed(source, batches)
            self._reader: Any = pa.ipc.open_file(source)
            schema, found = self._reader.schema, self._reader.num_record_batches
        if found != batches or len(schema) != channels or set(schema.types) != {pa.int16()}:
            raise CorpusError(f"{self._where} is not what the manifest says; prepare it again")

    def read_into(self, out_CT: npt.NDArray[np.int16], start: int) -> None:
        """Fill `out_CT` with the samples from row `start` on. Raises CorpusError where they are damaged."""
        done, total = 0, out_CT.shape[1]
        while done < total:
            index, offset = divmod(start + done, BATCH_ROWS)
            with self._checked():
                batch = self._reader.get_batch(index)
                if batch.num_rows != min(BATCH_ROWS, self._rows - index * BATCH_ROWS):
                    raise ValueError(f"batch {index} has {batch.num_rows} rows")
                batch.validate()
                count = min(total - done, batch.num_rows - offset)
                for channel, column in enumerate(batch.columns):
                    out_CT[channel, done : done + count] = column.slice(offset, count).to_numpy()
            done += count

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, IndexError, struct.error) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CorpusError(f"{self._where} is damaged ({reason}); prepare it again") from error
