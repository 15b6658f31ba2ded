from __future__ import annotations

import io

import numpy as np
import soundfile

from distill_ray.corpus.ogg_pages import crc
from distill_ray.generate.ogg import fix_serial


def crc_by_bits(data: bytes) -> int:
    """RFC 3533's checksum, one bit at a time."""
    state = 0
    for byte in data:
        state ^= byte << 24
        for _ in range(8):
            state = (state << 1 ^ (0x04C11DB7 if state & 0x80000000 else 0)) & 0xFFFFFFFF
    return state


def vorbis(seconds: float) -> io.BytesIO:
    random = np.random.default_rng(0)
    file = io.BytesIO()
    soundfile.write(file, 0.1 * random.standard_normal(round(seconds * 8_000)), 8_000, format="OGG")
    return file


def test_the_checksum_is_ogg_s() -> None:
    random = np.random.default_rng(0)
    for length in (0, 1, 27, 300):
        data = random.bytes(length)
        assert crc(data) == crc_by_bits(data)


def test_the_checksum_agrees_with_libsndfile_s_pages() -> None:
    page = vorbis(0.1).getvalue()[:58]  # the identification header: one page of 27 + 1 + 30 bytes
    assert page[:4] == b"OggS"
    assert page[26:28] == bytes((1, 30))
    assert crc(page[:22] + bytes(4) + page[26:]) == int.from_bytes(page[22:26], "little")


def test_a_fixed_serial_number_makes_equal_bytes_and_the_same_audio() -> None:
    one, other = vorbis(3.0), vorbis(3.0)
    assert one.getvalue() != other.getvalue()
    expected = soundfile.read(io.BytesIO(one.getvalue()))[0]
    for file in (one, other):
        fix_serial(file, 7)
    assert one.getvalue() == other.getvalue()
    assert one.getvalue()[14:18] == bytes((7, 0, 0, 0))
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(one.getvalue()))[0], expected)
