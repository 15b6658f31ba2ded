"""Where a corpus lies: a folder of any `pyarrow.fs` file system, written so that no reader sees half a file.

`shards.py` and `manifest.py` read and write through it; `prepare.py` locks it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from distill_ray.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The folder `root` of `filesystem`; `local` is the same folder as a path where there is one.

    `uri` is what the user wrote, without credentials. Every method turns the file system's errors into
    `CorpusError`.
    """

    filesystem: Any
    root: str
    uri: str
    local: Path | None

    def names(self, folder: str = "") -> dict[str, int]:
        """Size in bytes of each entry of `folder` (folders: 0); nothing where it does not exist."""
        selector = pafs.FileSelector(self._path(folder), allow_not_found=True)
        with self._explained("read"):
            return {info.base_name: info.size or 0 for info in self.filesystem.get_file_info(selector)}

    def read_bytes(self, name: str) -> bytes | None:
        """The content of `name`, or None where it does not exist."""
        path = self._path(name)
        with self._explained("read"):
            if self.filesystem.get_file_info(path).type != pafs.FileType.File:
                return None
            with self.filesystem.open_input_stream(path) as stream:
                return bytes(stream.read())

    def open(self, name: str) -> Any:
        """A random-access file, memory-mapped where the corpus is local."""
        with self._explained("read"):
            if self.local is not None:
                return pa.memory_map(str(self.local / name))
            return self.filesystem.open_input_file(self._path(name))

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
        final = self.local / name
        partial = final.with_name(f".{final.name}.partial")
        with self._explained("write"):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self.filesystem.open_output_stream(str(partial)) as stream:
                    yield stream
                _fsync(partial)
                partial.replace(final)
                _fsync(final.parent)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def remove(self, name: str) -> None:
        """Delete one file."""
        with self._explained("write"):
            self.filesystem.delete_file(self._path(name))

    @contextlib.contextmanager
    def lock(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Keep other preparations of this local folder out; remote folders have no lock."""
        if self.local is None:
            yield
            return
        with self._explained("write"):
            self.local.mkdir(parents=True, exist_ok=True)
            handle: IO[bytes] = (self.local / LOCK_NAME).open("ab")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"cannot {verb} the corpus at {self.uri}: {error}") from error


LOCK_NAME = ".lock"


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """The storage at a local path or a `pyarrow.fs` URI (`file:`, `s3:`, `gs:`, `hdfs:`, …).

    Raises `CorpusError` for a URI that pyarrow cannot serve. Nothing is created or read.
    """
    text = os.fspath(uri)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        path = Path(text).expanduser().absolute()
        return Storage(filesystem=pafs.LocalFileSystem(), root=str(path), uri=text, local=path)
    shown = re.sub(r"://[^/@]*@", "://", text)
    try:
        filesystem, root = pafs.FileSystem.from_uri(text)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CorpusError(f"{shown} is not a place that pyarrow can reach: {error}") from error
    local = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None
    return Storage(filesystem=filesystem, root=root.rstrip("/"), uri=shown, local=local)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
