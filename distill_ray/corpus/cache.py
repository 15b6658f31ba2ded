"""Shards of remote corpora on this node: each is downloaded once, by one of the node's processes.

A cached file has the size and time of the object that it was made from, and the time of its last use as its
access time. `corpus.py` reads remote corpora through it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill_ray.config.cache import cache_root
from distill_ray.corpus.manifest import SHARD_FOLDER
from distill_ray.corpus.shards import is_shard_name
from distill_ray.errors import CorpusError
from distill_ray.storage.filesystem import patiently
from distill_ray.storage.lock import LOCK_NAME, file_lock
from distill_ray.storage.storage import Entry, Storage

LIMIT_VARIABLE = "DISTILL_RAY_CACHE_GB"
_FOLDER = re.compile(r"[0-9a-f]{24}")
_DOWNLOADS = 8
_PATIENCE_S = 60.0
_ALWAYS_FREE = 256 << 20  # bytes of the disk that are left to others


@dataclass(frozen=True, kw_only=True)
class CachedStorage(Storage):
    """A remote corpus whose shards are opened from `folder`, into which they come as they are needed."""

    folder: Path
    shards: dict[str, Entry]

    def open(self, name: str) -> Any:
        shard = name.removeprefix(f"{SHARD_FOLDER}/")
        self.fetch([shard])
        return pa.memory_map(str(self.folder / shard))

    def fetch(self, shards: Collection[str]) -> None:
        """Have these shards here, several downloads at a time.

        An outage of the storage is sat out for a minute. Raises CorpusError after it, and where there is no
        room for all of them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / LOCK_NAME, lambda: None):  # the other ranks of this node
            missing = [name for name in dict.fromkeys(shards) if not self._is_here(name)]
            if missing:
                self._make_room(sum(self.shards[name].bytes for name in missing))
                with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="shards") as pool:
                    list(pool.map(self._download, missing))
            for name in shards:
                os.utime(self.folder / name, ns=(time.time_ns(), self.shards[name].written_ns))

    def _is_here(self, name: str) -> bool:
        try:
            status = (self.folder / name).stat()
        except FileNotFoundError:
            return False
        return Entry(bytes=status.st_size, written_ns=status.st_mtime_ns) == self.shards[name]

    def _download(self, name: str) -> None:
        patiently(lambda: self.download(f"{SHARD_FOLDER}/{name}", self.folder / name), patience_s=_PATIENCE_S)
        if not self._is_here(name):
            raise CorpusError(f"the corpus at {self.uri} was changed while it was read; start again")

    def _make_room(self, needed: int) -> None:
        """Remove the shards of other corpora that were not used for longest, until `needed` bytes fit."""
        root = self.folder.parent
        cached = _cached_files(root)
        over = _missing_room(root, needed, sum(status.st_size for status in cached.values()))
        others = [file for file in cached if file.parent != self.folder]
        lacking = over - sum(cached[file].st_size for file in others)
        if lacking > 0:
            raise CorpusError(
                f"{needed / 1e9:.2f} GB of the corpus at {self.uri} must be kept on this machine, and {root} "
                f"lacks {lacking / 1e9:.2f} GB for it; make room, or let XDG_CACHE_HOME name another disk or "
                f"{LIMIT_VARIABLE} another limit"
            )
        for file in sorted(others, key=lambda file: cached[file].st_atime_ns):
            if over <= 0:
                break
            over -= cached[file].st_size
            file.unlink(missing_ok=True)


def cached(storage: Storage) -> CachedStorage:
    """`storage`, which is remote, with its shards kept in a folder of this machine's cache."""
    name = hashlib.sha256(f"{storage.filesystem.type_name} {storage.root}".encode()).hexdigest()[:24]
    return CachedStorage(
        filesystem=storage.filesystem,
        root=storage.root,
        uri=storage.uri,
        local=storage.local,
        holds=storage.holds,
        error=storage.error,
        folder=cache_root() / "shards" / name,
        shards=storage.files(SHARD_FOLDER),
    )


def _missing_room(root: Path, needed: int, used: int) -> int:
    """Bytes that must go before `needed` more fit on the disk and into the limit; not above 0: none."""
    over = needed + _ALWAYS_FREE - shutil.disk_usage(root).free
    limit = os.environ.get(LIMIT_VARIABLE)
    if limit is None:
        return over
    try:
        return max(over, needed + used - int(float(limit) * 1e9))
    except (ValueError, OverflowError) as error:
        raise CorpusError(f"{LIMIT_VARIABLE} is {limit!r}, which is no number of gigabytes") from error


def _cached_files(root: Path) -> dict[Path, os.stat_result]:
    """The shards in the folders of `cached`, and nothing else that lies there or behind a link."""
    found = {}
    for file in root.glob("*/*"):
        if _FOLDER.fullmatch(file.parent.name) and is_shard_name(file.name) and not file.parent.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # another process is making room too
                found[file] = file.lstat()
    return found
