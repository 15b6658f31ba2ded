"""Where a corpus or a run lies: a folder of any `pyarrow.fs` file system, written so that no reader sees half
a file.

`corpus/shards.py` and `corpus/manifest.py` read and write corpora through it, `runs/` what a run leaves at a
URI; `corpus/prepare.py` locks it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from distill_ray.errors import CorpusError, DistillError
from distill_ray.regular_file import DOCUMENT_BYTES, check_regular
from distill_ray.storage.atomic import NO_ROOM, replacing
from distill_ray.storage.filesystem import locate, reason
from distill_ray.storage.lock import LOCK_NAME, folder_lock
from distill_ray.storage.names import checked_name
from distill_ray.uri import shown_uri

__all__ = ["LOCK_NAME", "Entry", "Storage", "open_storage"]

_COPY_BYTES = 1 << 22
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file: its size in bytes, and the second in which it was written (in ns since 1970)."""

    bytes: int
    written_ns: int


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The folder `root` of `filesystem`; `local` is the same folder as a path where there is one.

    `uri` is what the user wrote; none with credentials gets here. Every method turns the file system's
    errors into `error`, which says that `holds` cannot be read or written. No name leads out of the folder:
    one that would (`names.py`), listed or given, is that error too.
    """

    filesystem: Any
    root: str
    uri: str
    local: Path | None
    holds: str = "the corpus"
    error: type[DistillError] = CorpusError

    def names(self, folder: str = "") -> dict[str, int]:
        """Size in bytes of each entry of `folder` (folders: 0); nothing where it does not exist."""
        with self._explained("read"):
            return {
                self._checked(info.base_name, folders=False): info.size or 0
                for info in self._list(folder, recursive=False)
            }

    def files(self, folder: str = "") -> dict[str, Entry]:
        """Every file below `folder` by its name relative to it; nothing where it does not exist."""
        start = len(self._path(folder)) + 1
        with self._explained("read"):
            return {
                self._checked(info.path[start:]): _entry(info)
                for info in self._list(folder, recursive=True)
                if info.type == pafs.FileType.File
            }

    def entry(self, name: str) -> Entry | None:
        """The file `name`, or None where there is none."""
        with self._explained("read"):
            info = self.filesystem.get_file_info(self._path(name))
        return _entry(info) if info.type == pafs.FileType.File else None

    def read_bytes(self, name: str) -> bytes | None:
        """The content of `name`, or None where it does not exist."""
        path = self._path(name)
        with self._explained("read"):
            if self.filesystem.get_file_info(path).type != pafs.FileType.File:
                return None
            with self.filesystem.open_input_stream(path) as stream:
                content = bytes(stream.read(DOCUMENT_BYTES + 1))
        if len(content) > DOCUMENT_BYTES:
            raise self.error(
                f"{name} at {self.uri} is longer than {DOCUMENT_BYTES:,} bytes, which no document is"
            )
        return content

    def open(self, name: str) -> Any:
        """A random-access file, memory-mapped where the corpus is local."""
        with self._explained("read"):
            if self.local is not None:
                path = self.local / self._checked(name)
                check_regular(path)
                return pa.memory_map(str(path))
            return self.filesystem.open_input_file(self._path(name))

    def download(self, name: str, target: Path) -> None:
        """Copy `name` to the local file `target` with its time, as a whole or not at all."""
        with self._explained("read"):
            entry = _entry(self.filesystem.get_file_info(self._path(name)))
            stream = self.filesystem.open_input_stream(self._path(name))
        with stream, self._kept(name, target), replacing(target) as file:
            while chunk := self._read(stream):
                file.write(chunk)
            if file.tell() != entry.bytes:
                raise self.error(
                    f"{name} at {self.uri} was cut off: {file.tell()} of {entry.bytes} bytes came"
                )
            file.flush()
            os.utime(file.fileno(), ns=(entry.written_ns, entry.written_ns))

    def upload(self, source: IO[bytes], name: str) -> Entry:
        """Copy what is left of `source` to `name`, which changes only when all of it is there.

        Not to be called where KeyboardInterrupt may strike: pyarrow completes a stream that it was thrown
        out of.
        """
        size = 0
        with self.writing(name) as stream:
            while chunk := source.read(_COPY_BYTES):
                stream.write(chunk)
                size += len(chunk)
        entry = self.entry(name)
        if entry is None or entry.bytes != size:
            raise self.error(f"{name} was cut off on its way to {self.uri}")
        return entry

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A stream whose content becomes `name` at once when the block ends, and not when it raises.

        On a remote file system an object that was cut off may stay; nothing refers to it, and the next
        `remove` of what is unreferenced takes it away.
        """
        if self.local is None:
            with self._explained("write"), self.filesystem.open_output_stream(self._path(name)) as stream:
                yield stream
            return
        with self._explained("write"), replacing(self.local / self._checked(name)) as file:
            yield file

    def remove(self, name: str) -> None:
        """Delete one file."""
        with self._explained("write"):
            self.filesystem.delete_file(self._path(name))

    def remove_empty(self, folder: str) -> None:
        """Delete a local folder that is empty; object stores have none."""
        if self.local is not None:
            with contextlib.suppress(OSError):
                (self.local / self._checked(folder)).rmdir()

    def check_writable(self) -> None:
        """Write, read and delete a tiny file; raises `error` where that does not work."""
        name, content = f".distill-ray-probe-{secrets.token_hex(4)}", b"distill-ray can write here\n"
        with self._explained("write"):
            there = self.filesystem.get_file_info(self.root)
        if there.type == pafs.FileType.File:
            raise self.error(f"{self.uri} is a file; give a folder for {self.holds}")
        with self.writing(name) as stream:
            stream.write(content)
        if self.read_bytes(name) != content:
            raise self.error(
                f"what was written at {self.uri} cannot be read again; look at the rights of its credentials"
            )
        self.remove(name)

    def lock(self, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Keep other preparations of this local folder out; remote folders have no lock."""
        return contextlib.nullcontext() if self.local is None else self._lock(self.local, on_wait)

    @contextlib.contextmanager
    def _lock(self, folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with self._explained("write"):
                stack.enter_context(folder_lock(folder, on_wait))
            yield

    def _read(self, stream: Any) -> bytes:
        with self._explained("read"):
            return bytes(stream.read(_COPY_BYTES))

    @contextlib.contextmanager
    def _kept(self, name: str, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.error(
                f"{name} of {self.uri} cannot be kept in {target.parent} ({error.strerror or error}); make "
                "room there or let XDG_CACHE_HOME name another disk"
            ) from error

    def _list(self, folder: str, *, recursive: bool) -> Any:
        selector = pafs.FileSelector(self._path(folder), allow_not_found=True, recursive=recursive)
        return self.filesystem.get_file_info(selector)

    def _path(self, name: str) -> str:
        return f"{self.root}/{self._checked(name)}" if name else self.root

    def _checked(self, name: str, *, folders: bool = True) -> str:
        return checked_name(name, origin=self.uri, folders=folders, error=self.error)

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            full = isinstance(error, OSError) and error.errno in NO_ROOM
            advice = "; make room there or choose another place" if full else ""
            raise self.error(f"cannot {verb} {self.holds} at {self.uri}: {reason(error)}{advice}") from error
        except UnicodeDecodeError as error:  # pyarrow decodes a name when it is asked for
            raise self.error(
                f"{self.uri} holds a name that is not UTF-8, so it is not {self.holds}; choose another folder"
            ) from error


def open_storage(
    uri: str | os.PathLike[str],
    *,
    holds: str = "the corpus",
    error: type[DistillError] = CorpusError,
    attempts: int = 3,
) -> Storage:
    """The storage at a local path or a `pyarrow.fs` URI (`file:`, `s3:`, `gs:`, `hdfs:`, …).

    attempts: how often a request that gets no answer is made in all; 1 to know within seconds.

    Raises `error` for a URI that pyarrow cannot serve. Nothing is created or read.
    """
    try:
        found = locate(uri, attempts=attempts)
    except ValueError as wrong:
        raise error(f"{shown_uri(os.fspath(uri))} {wrong}") from wrong
    return Storage(
        filesystem=found.filesystem,
        root=found.root,
        uri=found.uri,
        local=found.local,
        holds=holds,
        error=error,
    )


def _entry(info: Any) -> Entry:
    # Whole seconds: some servers say more of them in a listing than of a single object.
    return Entry(bytes=info.size or 0, written_ns=(info.mtime_ns or 0) // _SECOND_NS * _SECOND_NS)
