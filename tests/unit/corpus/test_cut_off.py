from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from distill_ray.corpus.decode import load_audio
from distill_ray.corpus.ogg_pages import crc
from distill_ray.errors import AudioError

RATE = 8_000
OGG = [{"format": "OGG", "subtype": "VORBIS"}, {"format": "OGG", "subtype": "OPUS"}]


def reason(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        load_audio(path, sample_rate=RATE, channels=1)
    return str(caught.value)


def samples(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return load_audio(path, sample_rate=RATE, channels=1).shape[1]


def pages(content: bytes) -> list[bytes]:
    return [b"OggS" + rest for rest in content.split(b"OggS")[1:]]


@pytest.mark.parametrize("options", OGG)
@pytest.mark.parametrize("missing", [1, 200])
def test_an_ogg_file_cut_within_its_last_page(
    write_tone: Callable[..., Path], options: dict[str, str], missing: int
) -> None:
    path = write_tone("a.ogg", 10.0, **options)
    content = path.read_bytes()
    last = len(pages(content)[-1])
    assert samples(path, content) == 10 * RATE
    assert (
        f"it is cut off: its last Ogg page declares {last} bytes and the file has {last - missing} of them"
    ) in reason(path, content[:-missing])


@pytest.mark.parametrize("options", OGG)
@pytest.mark.parametrize(("beyond_s", "is_taken"), [(0.001, True), (0.11, True), (0.2, False)])
def test_an_ogg_stream_that_is_to_end_somewhat_after_its_last_packet(
    write_tone: Callable[..., Path], options: dict[str, str], beyond_s: float, is_taken: bool
) -> None:
    path = write_tone("a.ogg", 10.0, **options)
    rate = soundfile.info(path).samplerate
    unit = 48_000 if "OPUS" in options.values() else rate  # RFC 7845: Opus counts at 48 kHz
    *whole, last = pages(path.read_bytes())
    (end,) = struct.unpack("<q", last[6:14])
    moved = last[:6] + struct.pack("<q", end + round(beyond_s * unit)) + last[14:22] + bytes(4) + last[26:]
    moved = moved[:22] + struct.pack("<I", crc(moved)) + moved[26:]
    content = b"".join([*whole, moved])
    if is_taken:
        assert samples(path, content) == pytest.approx(10 * RATE, abs=0.12 * RATE)
    else:
        assert "samples and only" in reason(path, content)


@pytest.mark.parametrize("options", OGG)
@pytest.mark.parametrize("left", [1, 3, 4, 5, 20, 26, 27, 30])
def test_an_ogg_file_cut_within_the_header_of_a_page(
    write_tone: Callable[..., Path], options: dict[str, str], left: int
) -> None:
    path = write_tone("a.ogg", 10.0, **options)
    *whole, last = pages(path.read_bytes())
    assert last[26] > 3  # its table of segments is longer than what is left of it below
    assert "it is cut off: it ends within the header of an Ogg page" in reason(
        path, b"".join(whole) + last[:left]
    )


@pytest.mark.parametrize("options", OGG)
def test_whole_ogg_pages_are_taken_without_an_end_of_stream(
    write_tone: Callable[..., Path], options: dict[str, str]
) -> None:
    path = write_tone("a.ogg", 10.0, **options)
    content = path.read_bytes()
    *whole, last = pages(content)
    assert last[5] & 4
    assert 0 < samples(path, b"".join(whole)) < 10 * RATE
    assert samples(path, content + b"TAG" + bytes(125)) == 10 * RATE
    assert samples(path, content + bytes(70_000)) == 10 * RATE


@pytest.mark.parametrize("options", OGG)
def test_a_page_that_is_damaged_or_missing(write_tone: Callable[..., Path], options: dict[str, str]) -> None:
    path = write_tone("a.ogg", 10.0, **options)
    first, second, third, *rest = pages(path.read_bytes())
    assert len(rest) > 1
    changed = bytearray(third)
    changed[200] ^= 1
    at = len(first + second)
    assert f"it is damaged: the Ogg page at byte {at:,} does not match its checksum" in reason(
        path, b"".join((first, second, changed, *rest))
    )
    at = len(first + second + third)
    assert f"it is damaged: Ogg pages are missing before byte {at:,}" in reason(
        path, b"".join((first, second, third, *rest[1:]))
    )
    # Who joins a stream gets its headers, and then the page that comes just now.
    assert 0 < samples(path, b"".join((first, second, *rest))) < 10 * RATE


def test_the_letters_of_a_page_within_audio_are_no_page(write_tone: Callable[..., Path]) -> None:
    path = write_tone("a.ogg", 10.0, **OGG[0])
    content = path.read_bytes()
    assert samples(path, content + b"OggS, as they say") == 10 * RATE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"format": "AU", "subtype": "PCM_16"},
            "its header declares 48000 bytes of audio and the file has 23988",
        ),
        ({"format": "W64", "subtype": "PCM_16"}, "its header declares 48104 bytes and the file has 24052"),
        ({"format": "RF64", "subtype": "PCM_16"}, "its header declares 48096 bytes and the file has 24044"),
        (
            {"format": "SVX", "subtype": "PCM_16"},
            "its header declares 48000 bytes of audio and the file has 239",
        ),
        (
            {"format": "WVE", "subtype": "ALAW"},
            "its header declares 24000 bytes of audio and the file has 11984",
        ),
        ({"format": "VOC", "subtype": "PCM_16"}, "its header declares more bytes of audio than the file has"),
        ({"format": "AVR", "subtype": "PCM_16"}, "its header declares 24000 samples and the file has 11968"),
        (
            {"format": "MPC2K", "subtype": "PCM_16"},
            "its header declares 24000 samples and the file has 11989",
        ),
        ({"format": "NIST", "subtype": "PCM_16"}, "its header declares 24000 samples and the file has 11744"),
    ],
)
def test_other_formats_cut_in_half(
    write_tone: Callable[..., Path], options: dict[str, str], said: str
) -> None:
    path = write_tone("a.x", 3.0, **options)
    content = path.read_bytes()
    assert samples(path, content) == 3 * RATE
    assert f"it is cut off: {said}" in reason(path, content[: len(content) // 2])


def test_a_caf_file_cut_in_half_does_not_open(write_tone: Callable[..., Path]) -> None:
    path = write_tone("a.caf", 3.0, subtype="PCM_16")
    content = path.read_bytes()
    assert "it cannot be decoded" in reason(path, content[: len(content) // 2])


@pytest.mark.parametrize("name", ["W64", "RF64"])
def test_what_follows_the_audio_is_no_cut(write_tone: Callable[..., Path], name: str) -> None:
    path = write_tone("a.x", 1.0, format=name, subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content + bytes(100))
    assert "should be" in soundfile.SoundFile(path).extra_info
    assert samples(path, content + bytes(100)) >= RATE
