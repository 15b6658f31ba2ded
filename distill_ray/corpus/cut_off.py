"""Find out that a file ends before its audio does: libsndfile mends most of these silently.

`decode.py` asks before the first block of a file and after its last.
"""

from __future__ import annotations

import re
from pathlib import Path

import soundfile

from distill_ray.corpus.ogg_pages import check_pages
from distill_ray.errors import AudioError

# Encoder delay and padding that MPEG decoders may drop from what the header counts.
MPEG_SLACK = 2 * 1152
# Some encoders let an Ogg stream end a little after its last packet; this is the longest packet of Opus.
OGG_SLACK_SECONDS = 0.12
# Programs that write into a pipe cannot go back and fill in the length: they leave about the most that 31
# or 32 bits hold (sox, lame, opusdec, arecord, ffmpeg). From here on a length is a placeholder.
LEAST_PLACEHOLDER = 0x7F00_0000

# WAV, AIFF, AU, 8SVX; WVE; and of the formats for more than 4 GB, whose log has only this, the whole file.
_CORRECTED = re.compile(
    r"^\s*(?:data|SSND|Data Size|BODY)\s*:\s*(?P<declared>\d+) \(should be (?P<there>\d+)\)"
    r"|^Data length (?P<declared_wve>\d+) should be (?P<there_wve>\d+)"
    r"|^\s*(?:riff|Riff size)\s*:\s*(?P<declared_large>\d+) \(should be (?P<there_large>\d+)\)",
    re.MULTILINE,
)
# W64 pads its chunks to 8 bytes, and not every writer pads the last one that it counts.
_PADDING = 8

# The first frame of an MP3: its header, side information (9 to 32 bytes), and the tag that counts frames; a
# count is there where bit 0 of the flags is set.
_MPEG_TAG = re.compile(
    rb"\xff(?P<version>[\xe0-\xff])[\0-\xff]{2}[\0-\xff]{9,34}?"
    rb"(?:(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](?P<xing>[\0-\xff]{4})"
    rb"|VBRI[\0-\xff]{10}(?P<vbri>[\0-\xff]{4}))"
)
_MPEG_TAG_WITHIN = 1 << 18  # pictures in an ID3v2 tag come before it

_NIST_HEADER_BYTES = 1024


def check_end(path: Path, sound: soundfile.SoundFile) -> None:
    """Raise `AudioError` where the headers of `path`, opened as `sound`, promise more than the file has."""
    if sound.format == "OGG":
        check_pages(path)
    _check_declared_bytes(sound.extra_info)
    declared = _declared_frames(path, sound)
    if declared > sound.frames:
        raise AudioError(
            f"it is cut off: its header declares {declared} samples and the file has {sound.frames}"
        )


def check_length(sound: soundfile.SoundFile, decoded: int) -> None:
    """Raise `AudioError` where fewer samples were `decoded` than the header says."""
    slack = {"MP3": MPEG_SLACK, "OGG": round(OGG_SLACK_SECONDS * sound.samplerate)}.get(sound.format, 0)
    if decoded < sound.frames - slack:
        raise AudioError(f"its header declares {sound.frames} samples and only {decoded} decode")


def check_mpeg_length(path: Path, decoded: int) -> None:
    """Raise `AudioError` where fewer samples were `decoded` than the Xing or VBRI tag of an MP3 counts.

    Sources: "MPEG Audio Frame Header" (Windszus) for the side information's length and both tags.
    """
    with path.open("rb") as stream:
        tag = _MPEG_TAG.search(stream.read(_MPEG_TAG_WITHIN))
    if tag is None:
        return
    version, counted = tag["version"][0] >> 3 & 3, tag["xing"] or tag["vbri"]
    samples = int.from_bytes(counted) * (1152 if version == 3 else 576)
    if decoded < samples - MPEG_SLACK:
        raise AudioError(f"its header declares {samples} samples and only {decoded} decode")


def _check_declared_bytes(log: str) -> None:
    if "Seems to be a truncated file" in log:  # all that the reader of VOC says
        raise AudioError("it is cut off: its header declares more bytes of audio than the file has")
    for match in _CORRECTED.finditer(log):
        found = {name: int(value) for name, value in match.groupdict().items() if value}
        declared, there = found.values()
        slack = _PADDING if "declared_large" in found else 0
        if there + slack < declared < LEAST_PLACEHOLDER:
            audio = "" if "declared_large" in found else " of audio"
            raise AudioError(
                f"it is cut off: its header declares {declared} bytes{audio} and the file has {there}"
            )


def _declared_frames(path: Path, sound: soundfile.SoundFile) -> int:
    """What the header counts, of the formats whose reader goes by the file's size without a word; else 0."""
    if sound.format in ("AVR", "MPC2K"):
        match = re.search(r"^\s*Frames\s*:\s*(\d+)", sound.extra_info, re.MULTILINE)
        return int(match[1]) if match else 0
    if sound.format == "NIST":
        with path.open("rb") as stream:
            field = re.search(rb"^sample_count -i (\d+)", stream.read(_NIST_HEADER_BYTES), re.MULTILINE)
        return int(field[1]) if field else 0
    return 0
