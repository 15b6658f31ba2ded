"""Ogg streams with a fixed serial number, so that the same audio always gives the same bytes.

libsndfile numbers its streams at random. Page layout and checksum: RFC 3533, section 6.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from distill_ray.corpus.ogg_pages import crc

_HEADER_BYTES = 27


def fix_serial(file: BinaryIO, serial: int = 1) -> None:
    """Give every page of the one logical stream in `file` the number `serial`, in place."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(_HEADER_BYTES)
        if not header:
            return
        assert header[:4] == b"OggS", "libsndfile writes whole pages"
        table = file.read(header[26])
        body = file.read(sum(table))
        blank = header[:14] + struct.pack("<I", serial) + header[18:22] + bytes(4) + header[26:]
        checksum = struct.pack("<I", crc(blank + table + body))
        file.seek(position)
        file.write(blank[:22] + checksum + blank[26:])
        position += len(header) + len(table) + len(body)
