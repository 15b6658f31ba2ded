"""Files that decode to the same samples though their bytes differ, as a WAV and a FLAC of it: one is taken.

Else one might be held out while its twin is trained on. `prepare.py` asks before it decides the split.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from distill_ray.corpus.manifest import CorpusFile, DuplicateFile
from distill_ray.corpus.shards import ShardReader

_BLOCK_ROWS = 1 << 20

OpenShard = Callable[[str], ShardReader]


def by_name(path: str) -> tuple[int, str]:
    """Of files that hold the same the first stays: "a.wav" comes before "a (copy).wav" and "a.flac"."""
    return len(path), path


def find_twins(
    files: Mapping[str, CorpusFile], new: Collection[str], channels: int, shard: OpenShard
) -> tuple[DuplicateFile, ...]:
    """Those of `files` (whole recordings by sha256) that hold the samples of another one, which stays.

    new: the hashes of those that the corpus did not hold before; what it held stays before them, and of new
    ones the first `by_name`. Only files of the same number of samples are read.
    """
    by_length: dict[int, list[CorpusFile]] = defaultdict(list)
    for file in files.values():
        by_length[file.samples].append(file)
    found: list[DuplicateFile] = []
    for alike in by_length.values():
        if len(alike) > 1 and any(file.sha256 in new for file in alike):
            found += _twins(
                sorted(alike, key=lambda file: (file.sha256 in new, by_name(file.path))), new, channels, shard
            )
    return tuple(found)


def _twins(
    alike: Sequence[CorpusFile], new: Collection[str], channels: int, shard: OpenShard
) -> list[DuplicateFile]:
    first: dict[str, CorpusFile] = {}
    found: list[DuplicateFile] = []
    for file in alike:
        kept = first.setdefault(_identity(file, channels, shard(file.shard)), file)
        if kept is not file and file.sha256 in new:
            found.append(
                DuplicateFile(path=file.path, same_as=kept.path, sha256=file.sha256, twin=kept.sha256)
            )
    return found


def _identity(file: CorpusFile, channels: int, shard: ShardReader) -> str:
    """Hex sha256 of its samples, block by block."""
    hasher = hashlib.sha256()
    for start in range(0, file.samples, _BLOCK_ROWS):
        pcm_CT = np.empty((channels, min(_BLOCK_ROWS, file.samples - start)), np.int16)
        shard.read_into(pcm_CT, file.start + start)
        hasher.update(pcm_CT.tobytes())
    return hasher.hexdigest()
