"""Find the audio files of files and folders, and say which bytes each one holds.

`prepare.py` decodes what is found here.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_ray.corpus.manifest import MANIFEST_NAME, RejectedFile
from distill_ray.errors import AudioError, CorpusError
from distill_ray.storage.ours import is_ours
from distill_ray.storage.storage import open_storage
from distill_ray.uri import is_uri, shown_uri

# What `readers.py` reads, but for what is no recording (instruments, matrices, samples without a header).
AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd"}
    | {".ogg", ".oga", ".opus", ".mp3", ".mp2", ".voc", ".nist", ".sph", ".svx", ".8svx", ".avr", ".wve"}
    | {".ircam", ".pvf", ".m4a", ".m4b", ".aac", ".wma", ".mka", ".weba", ".wv", ".tta", ".ac3", ".eac3"}
    | {".mp4", ".m4v", ".mov", ".mkv", ".webm"}
)
# What holds recordings that nobody should miss without a word; not read, or not tried.
UNREADABLE_SUFFIXES = frozenset(
    {".m4p", ".gsm", ".sd2", ".aup3", ".alac", ".amr", ".awb", ".3ga", ".ape", ".tak", ".shn", ".mpc"}
    | {".spx", ".dsf", ".dff"}
)
_RECORDINGS = AUDIO_SUFFIXES | UNREADABLE_SUFFIXES
_OF_A_MAC = "._"
"""How the names of files begin in which macOS keeps what other file systems have no place for."""
_OF_SYSTEMS = (".Trash", ".Spotlight", ".git", ".cache", ".venv", ".distill-")
_LOOKED_AT = 1_000


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """One file to try; `shown` is its path as printable text, below the source as the user wrote it.

    label: the sub-folder of the source that it is in, at whatever depth; for a file that is in none, the
    source itself where it is one folder of several. Empty otherwise.
    """

    path: Path
    shown: str
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class HashedFile:
    """A found file with the hex sha256 of its bytes and what its header claims (0 where unreadable)."""

    found: FoundFile
    sha256: str
    claimed_rate: int
    claimed_seconds: float


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the sources hold: `files` in the order of their paths, `unreadable` folders and files and why, and
    the `hidden` files, and folders that hold recordings, which are passed over."""

    sources: tuple[str, ...]
    files: tuple[FoundFile, ...]
    unreadable: tuple[RejectedFile, ...]
    hidden: tuple[str, ...] = ()


def find_audio(sources: Sequence[str | os.PathLike[str]]) -> Scan:
    """All audio files below `sources`, each real path once.

    A folder is searched for the known suffixes, in sub-folders and through links too, but not in what is
    hidden. Among `unreadable` are folders that distill-ray has written (runs, generated sounds, corpora),
    recordings of formats that cannot be read, a prepared corpus and, beside other sources, a folder without
    recordings; anything else is passed over. What is named itself is taken, a file whatever its suffix.
    Raises `CorpusError` for a source that does not exist and for no sources at all.
    """
    if not sources:
        raise CorpusError("no source was given; name a folder of recordings or audio files")
    paths = [_path(source) for source in sources]
    for path in paths:
        if not os.path.lexists(path):
            raise CorpusError(f"{_shown(path)} does not exist; name a folder of recordings or audio files")
    unreadable: list[RejectedFile] = []
    hidden: list[Path] = []
    found: dict[str, FoundFile] = {}
    foreign: dict[str, Path] = {}
    for source in paths:
        if not source.is_dir():
            found.setdefault(os.path.realpath(source), FoundFile(path=source, shown=_shown(source)))
            continue
        recordings, noted = 0, len(unreadable)
        for path in _walk(source, unreadable, hidden):
            recordings += 1
            if path.suffix.lower() in AUDIO_SUFFIXES:
                label = _label(path, source, alone=len(paths) == 1)
                found.setdefault(
                    os.path.realpath(path), FoundFile(path=path, shown=_shown(path), label=label)
                )
            else:
                foreign.setdefault(os.path.realpath(path), path)
        if (source / MANIFEST_NAME).exists():
            reason = "it is a prepared corpus; name the recordings that it was made of"
            unreadable.append(RejectedFile(path=_shown(source), reason=reason))
        elif not recordings and len(unreadable) == noted and len(paths) > 1:
            unreadable.append(RejectedFile(path=_shown(source), reason="no recording is in it"))
    unreadable += [
        RejectedFile(
            path=_shown(path),
            reason=f"its format ({path.suffix.lower()}) cannot be read; convert it to flac or wav",
        )
        for real, path in foreign.items()
        if real not in found
    ]
    return Scan(
        sources=tuple(_shown(path) for path in paths),
        files=tuple(sorted(found.values(), key=lambda file: os.fsencode(file.path))),
        unreadable=tuple(unreadable),
        hidden=tuple(_shown(path) for path in hidden),
    )


def hash_file(path: Path) -> str:
    """Hex sha256 of the file's bytes; raises `AudioError` where they cannot be read."""
    try:
        # A named pipe would block for ever on open.
        if not stat.S_ISREG(path.stat().st_mode):
            raise AudioError("it is not a regular file")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(f"it cannot be read: {error.strerror}") from error


def _path(source: str | os.PathLike[str]) -> Path:
    text = os.fspath(source)
    if not is_uri(text):
        return Path(text).expanduser()
    local = open_storage(text).local if text.startswith("file:") else None
    if local is None:
        raise CorpusError(
            f"{shown_uri(text)} is not on this machine, where recordings are read; copy them to a folder"
        )
    return local


def _walk(folder: Path, unreadable: list[RejectedFile], hidden: list[Path]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        reason = f"the folder cannot be read: {error.strerror}"
        unreadable.append(RejectedFile(path=_shown(Path(error.filename)), reason=reason))

    visited: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=note):
        if Path(root) != folder and is_ours(files):
            reason = "distill-ray wrote what is in it; name it as a source of its own to use it"
            unreadable.append(RejectedFile(path=_shown(Path(root)), reason=reason))
            folders.clear()
            continue
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        hidden += [Path(root, name) for name in sorted(folders) if _hides_recordings(Path(root, name))]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() not in _RECORDINGS:
                continue
            if not name.startswith("."):
                yield Path(root, name)
            elif not name.startswith(_OF_A_MAC):
                hidden.append(Path(root, name))


def _hides_recordings(folder: Path) -> bool:
    """Whether it is hidden and, as far as a short look shows, recordings are in it."""
    if not folder.name.startswith(".") or folder.name.startswith(_OF_SYSTEMS):
        return False
    files = (name for _, _, names in os.walk(folder) for name in names)
    return any(Path(name).suffix.lower() in _RECORDINGS for name in itertools.islice(files, _LOOKED_AT))


def _label(path: Path, source: Path, *, alone: bool) -> str:
    folders = path.relative_to(source).parts[:-1]
    if folders:
        return _shown(Path(folders[0]))
    return "" if alone else _shown(Path(source.resolve().name))


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
