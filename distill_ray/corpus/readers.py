"""Open an audio file with what reads it right: libsndfile, or FFmpeg's libraries through PyAV.

libsndfile reads the lossless formats and plain Ogg. FFmpeg reads what libsndfile misreads (MPEG audio, whose
length it guesses from one frame; Ogg streams one after another, of which it reads the first) and what it
cannot read (AAC, WMA, WebM, the sound of video files, FLAC of unknown length). `decode.py` mixes and
resamples what comes from here. Shape suffixes: C channels, T samples.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from distill_ray.corpus.cut_off import check_end, check_length, check_mpeg_length
from distill_ray.corpus.ogg_pages import check_pages
from distill_ray.errors import AudioError, InstallationError

Block = npt.NDArray[np.float32]

# Demuxers that hold sound of their own. None that names other files (playlists, concat scripts): what is
# opened must be what was given.
_FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,caf,dsf,eac3,flac,iff,matroska,mov,mp3,mpc,mpc8,ogg,shorten,tak,tta,voc,"
    "w64,wav,wv"
)
# Of these the header counts the stream's own samples; of others a duration is an estimate, or the picture's.
_COUNTED_FORMATS = {"flac", "mov", "wav"}
_COUNT_SLACK_SECONDS = 0.2
_UNRECOGNISED = 1
"""libsndfile's error code for a format that it does not know."""
_FFMPEG_BLOCK_SAMPLES = 1 << 14
_MPEG_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")
_MPEG_IN_WAV = re.compile(rb"fmt [\0-\xff]{4}[\x50\x55]\0")  # WAVE_FORMAT_MPEG, WAVE_FORMAT_MPEGLAYER3
_WAV_FORMAT_WITHIN = 1 << 16


class Reader(Protocol):
    """One pass over one open file."""

    rate: int
    """In Hz."""
    channels: int

    def blocks(self, values: int) -> Iterator[Block]:
        """Blocks [T, C] of at most `values` values, full scale at ±1; raises `AudioError` with a reason."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...

    @property
    def note(self) -> str | None:
        """What about the file is odd although it was read; None where nothing is."""
        ...


def open_reader(path: Path) -> Reader:
    """The reader of `path`. Raises `AudioError` with a reason that does not repeat the path."""
    head = _head(path)
    if not head:
        raise AudioError("it is empty: it holds no bytes")
    if _is_mpeg(path, head) or _is_uncounted_flac(head) or _is_chained_ogg(path, head):
        return FfmpegReader(path)
    try:
        reader = SoundfileReader(path)
    except soundfile.LibsndfileError as error:
        if error.code == _UNRECOGNISED:
            return FfmpegReader(path)
        raise _undecodable(error) from error
    if reader.frames:
        return reader
    reader.close()
    # A recorder that crashed leaves a length of 0 before the sound.
    return FfmpegReader(path, note="its header says that it is empty; it was decoded to its end")


class SoundfileReader:
    """Reads with libsndfile, and refuses what is cut off."""

    note: str | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        # By its descriptor: libsndfile would take any file whose name ends in .mp3 for one.
        self._sound = soundfile.SoundFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), closefd=True)
        self.rate, self.channels = self._sound.samplerate, self._sound.channels
        self.frames = self._sound.frames

    def blocks(self, values: int) -> Iterator[Block]:
        check_end(self._path, self._sound)
        block_TC = np.empty((max(1, values // self.channels), self.channels), dtype=np.float32)
        decoded = 0
        try:
            short = False
            while not short and (got_TC := self._sound.read(out=block_TC)).size:
                decoded += len(got_TC)
                short = len(got_TC) < len(block_TC)  # the end, or a hole, behind which it goes astray
                yield got_TC
        except soundfile.LibsndfileError as error:
            raise _undecodable(error) from error
        check_length(self._sound, decoded)

    def close(self) -> None:
        self._sound.close()


class FfmpegReader:
    """Reads the first audio stream of a file with PyAV."""

    def __init__(self, path: Path, *, note: str | None = None) -> None:
        self.note = note
        self._path, self._av = path, _load_av()
        self._file = path.open("rb")
        try:
            # Through a file object, FFmpeg has no protocol to open anything else with.
            self._container = self._av.open(
                self._file, mode="r", options={"format_whitelist": _FFMPEG_FORMATS}, metadata_errors="replace"
            )
            streams = self._container.streams.audio
            if not streams:
                raise AudioError("it holds no sound")
            self._stream = streams[0]
            if self._stream.codec_context is None:
                raise AudioError("it cannot be decoded: its codec is not known")
            self.rate, self.channels = int(self._stream.rate or 0), int(self._stream.channels or 0)
        except self._av.error.InvalidDataError as error:
            self._file.close()
            raise AudioError("it cannot be decoded: it is no audio file, or a damaged one") from error
        except self._av.FFmpegError as error:
            self._file.close()
            raise AudioError(f"it cannot be decoded: {_words(error)}") from error
        except AudioError:
            self.close()
            raise

    def blocks(self, values: int) -> Iterator[Block]:
        if "ogg" in self._formats():
            check_pages(self._path)
        most, held, count, decoded = max(1, values // max(1, self.channels)), [], 0, 0
        for frame_TC in self._frames():
            decoded += len(frame_TC)
            held.append(frame_TC)
            count += len(frame_TC)
            if count >= min(most, _FFMPEG_BLOCK_SAMPLES):
                yield from _cut(np.concatenate(held), most)
                held, count = [], 0
        if held:
            yield from _cut(np.concatenate(held), most)
        self._check_whole(decoded)

    def _check_whole(self, decoded: int) -> None:
        formats = self._formats()
        if "mp3" in formats:
            check_mpeg_length(self._path, decoded)
        if self.note or not formats & _COUNTED_FORMATS or not self._stream.duration:
            return
        counted = float(self._stream.duration * self._stream.time_base)
        if decoded / self.rate < counted - _COUNT_SLACK_SECONDS:
            raise AudioError(
                f"it is cut off: its header declares {counted:.1f} s and {decoded / self.rate:.1f} s decode"
            )

    def _formats(self) -> set[str]:
        return set(self._container.format.name.split(","))

    @property
    def claimed_seconds(self) -> float:
        """The length by its header, an estimate for streams."""
        duration = self._container.duration
        return duration / self._av.time_base if duration else 0.0

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def _frames(self) -> Iterator[Block]:
        decoded = 0
        converter = self._av.AudioResampler(format="flt", layout=self._stream.layout, rate=self.rate)
        try:
            for frame in self._container.decode(self._stream):
                if frame.sample_rate != self.rate or len(frame.layout.channels) != self.channels:
                    raise AudioError(_changed(decoded, self.rate))
                for converted in converter.resample(frame):
                    frame_TC: Block = converted.to_ndarray().reshape(-1, self.channels)
                    decoded += len(frame_TC)
                    yield frame_TC
        except self._av.error.PatchWelcomeError as error:
            raise AudioError(_changed(decoded, self.rate)) from error
        except self._av.FFmpegError as error:
            raise AudioError(
                f"it cannot be decoded: {_words(error)} after {decoded / max(1, self.rate):.1f} s"
            ) from error


def claimed(path: Path) -> tuple[int, float]:
    """Rate in Hz and seconds that the header of `path` claims, unchecked; (0, 0.0) where there is none."""
    try:
        reader = open_reader(path)
    except (AudioError, OSError, InstallationError):
        return 0, 0.0
    try:
        if isinstance(reader, SoundfileReader):
            return reader.rate, reader.frames / max(1, reader.rate)
        assert isinstance(reader, FfmpegReader)
        return reader.rate, reader.claimed_seconds
    finally:
        reader.close()


def _undecodable(error: soundfile.LibsndfileError) -> AudioError:
    reason = error.error_string.strip() or f"libsndfile error {error.code}"
    return AudioError(f"it cannot be decoded: {reason.rstrip('.')}")


def _cut(block_TC: Block, most: int) -> Iterator[Block]:
    for start in range(0, len(block_TC), most):
        yield block_TC[start : start + most]


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(64)


def _is_mpeg(path: Path, head: bytes) -> bool:
    """Whether it may be MPEG audio of layer I, II or III: bare, behind an ID3v2 tag, or in a WAV.

    Whatever libsndfile would give to mpg123, which writes its complaints about damage on our terminal.
    """
    if head.startswith((b"RIFF", b"RF64")):
        with path.open("rb") as stream:
            return _MPEG_IN_WAV.search(stream.read(_WAV_FORMAT_WITHIN)) is not None
    return head.startswith(b"ID3") or _MPEG_SYNC.match(head) is not None


def _is_uncounted_flac(head: bytes) -> bool:
    """Whether STREAMINFO (RFC 9639, 8.2) leaves the 36 bits of total samples at 0, as written to a pipe."""
    return head.startswith(b"fLaC") and len(head) >= 26 and not (head[21] & 0x0F or any(head[22:26]))


def _is_chained_ogg(path: Path, head: bytes) -> bool:
    """Whether a stream begins after another has (RFC 3533: chaining), and not beside it."""
    if not head.startswith(b"OggS"):
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begun = False
        for match in re.finditer(rb"OggS\0([\0-\7])", content):
            begins = bool(match[1][0] & 2)
            if begins and begun:
                return True
            begun = begun or not begins
    return False


def _load_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InstallationError(
            f"PyAV, which reads this format, cannot be loaded ({error}); run `distill-ray doctor`"
        ) from error
    return av


def _changed(decoded: int, rate: int) -> str:
    return f"its rate or channels change after {decoded / max(1, rate):.1f} s; split it there"


def _words(error: Exception) -> str:
    """FFmpeg's own words, without number and name of the file."""
    return str(getattr(error, "strerror", None) or error).split(":")[0].strip().lower()
