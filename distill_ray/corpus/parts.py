"""The end of a corpus's only recording, held out where no other recording can be.

Both parts are files of the manifest that lie behind each other in one shard; the identity of the end is made
of its recording's, so that a later preparation finds the two again. `prepare.py` parts and joins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus.manifest import CorpusFile

LEAST_SECONDS = 2.0
"""An end that is shorter says too little: the recording is trained on whole."""


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
    whole: Mapping[str, CorpusFile], before: Mapping[str, CorpusFile], config: CorpusConfig
) -> dict[str, CorpusFile]:
    """The parts of those whole recordings that were parted in the manifest of `before`, and of the only
    recording if that did not know it; by hash, as all that is given.
    """
    held_out = {
        digest: whole[digest].samples * before[end_of(digest)].samples // recording.samples
        for digest, recording in join(before.values()).items()
        if digest in whole and end_of(digest) in before
    }
    if len(whole) == 1 and not whole.keys() & before.keys():
        ((digest, only),) = whole.items()
        end = round(only.samples * config.val_fraction)
        if end >= LEAST_SECONDS * config.sample_rate:
            held_out[digest] = end
    return {file.sha256: file for digest, end in held_out.items() for file in part(whole[digest], end)}
