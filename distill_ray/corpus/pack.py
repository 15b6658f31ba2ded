"""Decode a group of new files into shards: one that they share, and one for each long file.

`prepare.py` forms the groups. A file is judged before its first sample enters the shared shard: until its
end it waits in a buffer, and once it outgrows that it goes to a shard of its own, which is dropped if the
file turns out to be bad. So no shard holds rows of a file that was rejected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus.decode import AudioDecoder, PcmBlock
from distill_ray.corpus.limits import Identity, Room
from distill_ray.corpus.manifest import CorpusFile, RejectedFile, ShardInfo
from distill_ray.corpus.parallel import Job
from distill_ray.corpus.scan import HashedFile
from distill_ray.corpus.shards import ShardWriter, shard_name
from distill_ray.errors import AudioError
from distill_ray.storage.storage import Storage

BUFFER_BYTES = 32 << 20
LEAST_GROUP_BYTES, GROUPS = 1 << 20, 16


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What became of a group; every file's split is still "train"."""

    files: tuple[CorpusFile, ...]
    shards: tuple[ShardInfo, ...]
    rejected: tuple[RejectedFile, ...]


def group_files(files: Sequence[HashedFile], config: CorpusConfig) -> list[list[HashedFile]]:
    """Neighbours by hash, each group about a shard by the files' headers.

    A small corpus is cut finer, so that many threads have work; the number of threads has no influence,
    so the same content makes the same shards on every machine.
    """
    second = config.sample_rate * config.channels * 2
    sizes = [int(min(file.claimed_seconds, 1e9) * second) for file in files]
    target = min(max(LEAST_GROUP_BYTES, sum(sizes) // GROUPS), config.shard_mb << 20)
    groups: list[list[HashedFile]] = []
    filled = 0
    for file, size in zip(files, sizes, strict=True):
        if not groups or filled + size > target:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += size
    return groups


def pack_group(storage: Storage, group: Sequence[HashedFile], config: CorpusConfig, job: Job) -> Packed:
    """Decode and write one group; raises only for the storage's errors and room, and `Stopped`."""
    files: list[CorpusFile] = []
    rejected: list[RejectedFile] = []
    with _Packer(storage, group, config, job.check) as packer:
        for source in group:
            try:
                files.append(packer.add(source))
            except AudioError as error:
                rejected.append(RejectedFile(path=source.found.shown, reason=str(error)))
            job.tick()
    return Packed(files=tuple(files), shards=packer.shards(), rejected=tuple(rejected))


class _Packer(contextlib.ExitStack):
    """The open shared shard of a group and the finished shards of its long files."""

    def __init__(
        self, storage: Storage, group: Sequence[HashedFile], config: CorpusConfig, check: Callable[[], None]
    ) -> None:
        super().__init__()
        self._storage, self._config, self._check = storage, config, check
        self._shared_name = self._name([file.sha256 for file in group])
        self._shared: ShardWriter | None = None
        self._own: list[ShardInfo] = []

    def add(self, source: HashedFile) -> CorpusFile:
        """Decode `source` to its place; raises `AudioError` and leaves no trace when it is bad."""
        rate, channels = self._config.sample_rate, self._config.channels
        decoder = AudioDecoder(source.found.path, sample_rate=rate, channels=channels)
        name = self._name([source.sha256])
        buffer: list[PcmBlock] = []
        own: ShardWriter | None = None
        room, identity = Room(self._storage, source), Identity(source)
        with contextlib.ExitStack() as stack:
            for block_CT in decoder.blocks():
                self._check()
                room.take(block_CT.nbytes)
                buffer.append(block_CT)
                if own is None and sum(held_CT.nbytes for held_CT in buffer) > BUFFER_BYTES:
                    own = stack.enter_context(ShardWriter(self._storage, name, channels=channels))
                if own is not None:
                    _move(buffer, own)
            decoder.check_loud()
            identity.check()
        start = 0
        if own is not None:
            self._own.append(own.info)
        else:
            if self._shared is None:
                writer = ShardWriter(self._storage, self._shared_name, channels=channels)
                self._shared = self.enter_context(writer)
            name, start = self._shared_name, self._shared.rows
            _move(buffer, self._shared)
        return CorpusFile(
            path=source.found.shown,
            sha256=source.sha256,
            samples=decoder.samples,
            split="train",
            source_rate=decoder.source_rate,
            source_channels=decoder.source_channels,
            clipped=decoder.clipped,
            shard=name,
            start=start,
            label=source.found.label,
            offset=round(decoder.offset, 5),
            mixed_db=round(decoder.mixed_db, 1),
            note=decoder.note or "",
        )

    def shards(self) -> tuple[ShardInfo, ...]:
        """All shards written, once the context has ended."""
        return (*self._own, *([self._shared.info] if self._shared else []))

    def _name(self, members: Sequence[str]) -> str:
        return shard_name(members, self._config.sample_rate, self._config.channels)


def _move(blocks: list[PcmBlock], writer: ShardWriter) -> None:
    for block_CT in blocks:
        writer.append(block_CT)
    blocks.clear()
