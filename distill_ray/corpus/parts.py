"""The end of a corpus's only recording, held out where no other recording can be.

Both parts are files of the manifest that lie behind each other in one shard; the identity of the end is made
of its recording's, so that a later preparation finds the two again. `prepare.py` parts and joins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus.decode import AUDIBLE, PCM_SCALE
from distill_ray.corpus.manifest import CorpusFile
from distill_ray.corpus.shards import ShardReader

LEAST_SECONDS = 2.0
"""An end that is shorter says too little: the recording is trained on whole."""
_LEAST_AUDIBLE_SECONDS = 1.0
_BLOCK_SECONDS = 0.1
_BLOCKS_READ = 64


def end_of(sha256: str) -> str:
    """The identity of the end of the recording with this hex sha256."""
    return hashlib.sha256(f"end {sha256}".encode()).hexdigest()


def part(file: CorpusFile, held_out: int) -> tuple[CorpusFile, CorpusFile]:
    """What is trained on of a whole recording, and its last `held_out` samples."""
    trained = file.samples - held_out
    assert trained > 0, "nothing to train on"
    return replace(file, samples=trained, split="train"), replace(
        file,
        path=f"{file.path} (its end)",
        sha256=end_of(file.sha256),
        samples=held_out,
        split="val",
        clipped=0,
        start=file.start + trained,
    )


def join(files: Iterable[CorpusFile]) -> dict[str, CorpusFile]:
    """The whole recordings of a manifest's files, by their hex sha256."""
    whole = {file.sha256: file for file in files}
    for end, file in [(whole.get(end_of(digest)), file) for digest, file in whole.items()]:
        if end is not None:
            whole[file.sha256] = replace(file, samples=file.samples + end.samples)
            del whole[end.sha256]
    return whole


def parted(
    whole: Mapping[str, CorpusFile],
    before: Mapping[str, CorpusFile],
    config: CorpusConfig,
    audible: Callable[[CorpusFile], bool],
) -> dict[str, CorpusFile]:
    """The parts of those whole recordings that were parted in the manifest of `before`, and of the only
    recording if it was not trained on there; by hash, as all that is given.

    A recording of which one part would be silent stays whole.
    """
    held_out = {
        digest: whole[digest].samples * before[end_of(digest)].samples // recording.samples
        for digest, recording in join(before.values()).items()
        if digest in whole and end_of(digest) in before
    }
    parts = [each for digest, end in held_out.items() for each in part(whole[digest], end)]
    if len(whole) == 1 and not any(each.split == "train" for each in before.values() if each.sha256 in whole):
        (only,) = whole.values()
        end = held_out_samples(only.samples, config)
        new = part(only, end) if end else ()
        if all(map(audible, new)):
            parts += new
    return {each.sha256: each for each in parts}


def held_out_samples(samples: int, config: CorpusConfig) -> int:
    """How long an end a single recording of so many samples gets; 0 where it would be too short."""
    end = round(samples * config.val_fraction)
    return end if end >= LEAST_SECONDS * config.sample_rate else 0


def is_audible(file: CorpusFile, shard: ShardReader, config: CorpusConfig) -> bool:
    """Whether at least a second of `file` has sound."""
    block, least = round(_BLOCK_SECONDS * config.sample_rate), AUDIBLE * PCM_SCALE
    audible = 0
    for start in range(0, file.samples, block * _BLOCKS_READ):
        pcm_CT = np.empty((config.channels, min(block * _BLOCKS_READ, file.samples - start)), np.int16)
        shard.read_into(pcm_CT, file.start + start)
        peak_T = np.abs(pcm_CT.astype(np.int32)).max(axis=0)
        audible += int(np.count_nonzero(np.maximum.reduceat(peak_T, range(0, len(peak_T), block)) >= least))
        if audible * _BLOCK_SECONDS >= _LEAST_AUDIBLE_SECONDS:
            return True
    return False
