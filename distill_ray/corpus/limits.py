"""What a recording may do while it is decoded: not fill the disk, and not become another one.

`pack.py` asks both of every file. A few hundred kilobytes of FLAC can decode to gigabytes.
"""

from __future__ import annotations

import shutil

from distill_ray.corpus.scan import HashedFile, hash_file
from distill_ray.errors import AudioError, CorpusError
from distill_ray.storage.storage import Storage

KEPT_FREE_BYTES = 256 << 20
"""Of a local target's disk this much is left to others, or a twentieth of a disk that is small."""

_LOOK_EVERY_BYTES = 16 << 20


class Room:
    """Counts what one recording decodes to and looks every 16 MiB whether the target's disk takes it.

    The limit is the free space of a local target less `KEPT_FREE_BYTES`; object stores have none.
    """

    def __init__(self, storage: Storage, source: HashedFile) -> None:
        self._storage, self._source = storage, source
        self._decoded = 0
        self._looked = 0

    def take(self, count: int) -> None:
        """`count` bytes more are about to be kept. Raises CorpusError where there is no room for them."""
        self._decoded += count
        local = self._storage.local
        if local is None or self._decoded - self._looked < _LOOK_EVERY_BYTES:
            return
        self._looked = self._decoded
        usage = shutil.disk_usage(local)
        kept = min(KEPT_FREE_BYTES, usage.total // 20)
        if usage.free - kept < _LOOK_EVERY_BYTES:
            raise CorpusError(
                f"{self._source.found.shown} decodes to more than there is room for at {self._storage.uri}: "
                f"{self._decoded / 1e6:.0f} MB so far, {usage.free / 1e6:.0f} MB are free and "
                f"{kept / 1e6:.0f} MB of them are left to others; make room, choose another --out, or leave "
                "that file out"
            )


class Identity:
    """That what is decoded is what was hashed: made before the decoding, asked after it."""

    def __init__(self, source: HashedFile) -> None:
        self._source = source
        self._before = self._place()

    def check(self) -> None:
        """Raises AudioError unless the file still is the one with its hash."""
        if self._place() != self._before or hash_file(self._source.found.path) != self._source.sha256:
            raise AudioError("it changed while it was read; prepare again when nothing writes to it")

    def _place(self) -> tuple[int, int]:
        """Tells the file from another one that takes its place."""
        try:
            status = self._source.found.path.stat()
        except OSError:
            return (0, 0)  # decoding says why
        return status.st_dev, status.st_ino
