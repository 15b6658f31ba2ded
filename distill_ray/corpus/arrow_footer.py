"""What the footer of an Arrow IPC file says of its batches before Arrow reads them.

Arrow unpacks a compressed batch to whatever size that claims, without a limit, and has no switch for it.
`shards.py`, which writes plain batches only, asks here first. The layout is that of Arrow's Footer, Block,
Message and RecordBatch tables (`File.fbs`, `Message.fbs`), the encoding FlatBuffers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

_MAGIC = b"ARROW1"
_CONTINUATION = 0xFFFFFFFF
_BLOCK_BYTES = 24  # offset: int64; length of the metadata: int32, and 4 bytes of padding; of the body: int64
_FOOTER_BATCHES, _MESSAGE_HEADER, _BATCH_COMPRESSION = 3, 2, 3  # numbers of fields


def refuse_compressed(source: Any, most_batches: int) -> None:
    """Raise ValueError or struct.error where `source`, a random-access file, is no Arrow file, has more
    batches or one that is compressed.
    """
    size = source.size()
    length, magic = struct.unpack("<i6s", source.read_at(10, max(0, size - 10)))
    if magic != _MAGIC or not 0 < length <= size - 10:
        raise ValueError("its footer is not where it should be")
    footer = _Table.root(source.read_at(length, size - 10 - length))
    start = footer.target(_FOOTER_BATCHES)
    count = footer.number("<I", start) if start is not None else 0
    if count > most_batches:
        raise ValueError(f"{count} batches")
    for index in range(count):
        assert start is not None
        block = start + 4 + _BLOCK_BYTES * index
        offset, metadata = footer.number("<q", block), footer.number("<i", block + 8)
        if not 0 <= offset <= size or not 8 < metadata <= size - offset:
            raise ValueError(f"batch {index} lies outside the file")
        content = source.read_at(metadata, offset)
        if struct.unpack_from("<I", content)[0] != _CONTINUATION:
            raise ValueError(f"batch {index} has no message")
        message = _Table.root(content[8:])
        header = message.target(_MESSAGE_HEADER)
        if header is None or _Table(message.content, header).target(_BATCH_COMPRESSION) is not None:
            raise ValueError(f"batch {index} is compressed")


@dataclass(frozen=True)
class _Table:
    """A FlatBuffers table that begins at `start` of `content`."""

    content: bytes
    start: int

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, struct.unpack_from("<I", content)[0])

    def number(self, layout: str, position: int) -> int:
        if position < 0:
            raise ValueError("a negative place")
        found: int = struct.unpack_from(layout, self.content, position)[0]
        return found

    def target(self, field: int) -> int | None:
        """Where the table, vector or string that is a field begins; None where the field is left out."""
        vtable = self.start - self.number("<i", self.start)
        if 4 + 2 * field >= self.number("<H", vtable):
            return None
        offset = self.number("<H", vtable + 4 + 2 * field)
        if not offset:
            return None
        return self.start + offset + self.number("<I", self.start + offset)
