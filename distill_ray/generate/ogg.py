"""Ogg streams with a fixed serial number, so that the same audio always gives the same bytes.

libsndfile numbers its streams at random. Page layout and checksum: RFC 3533, section 6.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

_HEADER_BYTES = 27
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


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


def crc(data: bytes) -> int:
    """Ogg's CRC-32: the polynomial of zlib's, but most significant bit first, from 0 and not inverted."""
    mirrored = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
