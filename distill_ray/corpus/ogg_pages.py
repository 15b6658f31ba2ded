"""The pages of an Ogg file: whole, undamaged and none missing, or `AudioError`.

Decoders pass over a damaged page and join what is before and after it. RFC 3533, section 6: a page is a
header of 27 bytes, a table of segment lengths, and the segments.
"""

from __future__ import annotations

import mmap
import re
import zlib
from pathlib import Path

from distill_ray.errors import AudioError

_CAPTURE = b"OggS"
# With its version and flags, as far as they are there: tags behind the last page may hold the letters too.
_START = re.compile(rb"OggS(?:\0(?:[\0-\7]|\Z)|\Z)")
_HEADER_BYTES = 27
_CHECKSUM = slice(22, 26)
_BEGINS = 2  # of the flags: the first page of a logical stream
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def check_pages(path: Path) -> None:
    """Raise `AudioError` where a page is cut off, damaged or missing.

    A missing end-of-stream flag is no fault, for what is recorded from a stream has none; nor is what follows
    a whole page, such as tags.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        numbers: dict[bytes, int | None] = {}  # by stream: that of its next page, once it has given samples
        position = 0
        while (start := _START.search(content, position)) is not None:
            page = _page(content, start.start())
            position = start.start() + len(page)
            _check_number(page, numbers, start.start())
        rest = content[position:]
    if rest and _CAPTURE.startswith(rest):
        raise AudioError("it is cut off: it ends within the header of an Ogg page")


def crc(data: bytes) -> int:
    """Ogg's CRC-32: the polynomial of zlib's, but most significant bit first, from 0 and not inverted."""
    mirrored = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _page(content: mmap.mmap, start: int) -> bytes:
    header = content[start : start + _HEADER_BYTES]
    count = header[-1] if len(header) == _HEADER_BYTES else 0
    table = content[start + len(header) : start + len(header) + count]
    if len(header) < _HEADER_BYTES or len(table) < count:
        raise AudioError("it is cut off: it ends within the header of an Ogg page")
    declared = len(header) + count + sum(table)
    page = content[start : start + declared]
    if len(page) < declared:
        raise AudioError(
            f"it is cut off: its last Ogg page declares {declared} bytes and the file has {len(page)} of them"
        )
    checksum = int.from_bytes(page[_CHECKSUM], "little")
    if crc(page[: _CHECKSUM.start] + bytes(4) + page[_CHECKSUM.stop :]) != checksum:
        raise AudioError(f"it is damaged: the Ogg page at byte {start:,} does not match its checksum")
    return page


def _check_number(page: bytes, numbers: dict[bytes, int | None], start: int) -> None:
    serial, number = page[14:18], int.from_bytes(page[18:22], "little")
    expected = None if page[5] & _BEGINS else numbers.get(serial)
    if expected is not None and number != expected:
        raise AudioError(f"it is damaged: Ogg pages are missing before byte {start:,}")
    # Who joins a stream gets its headers, and then the page that comes just now.
    gives_samples = int.from_bytes(page[6:14], "little", signed=True) > 0
    if gives_samples or expected is not None:
        numbers[serial] = (number + 1) % (1 << 32)
    else:
        numbers[serial] = None
