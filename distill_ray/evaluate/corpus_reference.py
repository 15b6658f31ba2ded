"""A corpus as the judge's reference, measured once and kept in the cache."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distill_ray.config.cache import cache_root
from distill_ray.corpus import PCM_SCALE, Corpus, CorpusFile
from distill_ray.evaluate.reference import Reference
from distill_ray.evaluate.reference_file import load_reference, save_reference
from distill_ray.evaluate.sound import Sound
from distill_ray.evaluate.windows import LONG
from distill_ray.events.records import StageProgress

PIECE_SECONDS = 2 * LONG.block_seconds
"""Whole blocks of both kinds of windows, so that the pieces have the windows of the whole."""
MOST_SECONDS = 3600.0
"""Of a longer split, pieces spread evenly over all of it are measured."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some samples of a file of the corpus."""

    file: CorpusFile
    start: int
    samples: int


def corpus_reference(
    corpus: Corpus,
    *,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
    on_progress: Callable[[StageProgress], None] | None = None,
) -> Reference:
    """The reference of a corpus: its training files, with its held-out files as the second floor.

    It is kept below `cache_dir` (default: `judge` in the cache), named after the corpus's digest and the
    judge's own code. Raises AudioError where the training audio is too short.
    """
    folder = cache_root() / "judge" if cache_dir is None else cache_dir
    path = folder / f"{corpus.digest[:24]}-{_own_digest()}.safetensors"
    kept = load_reference(path)
    if kept is not None:
        return kept
    pieces = {split: corpus_pieces(corpus, split) for split in ("train", "val")}
    done, total = 0, sum(map(len, pieces.values()))

    def tell(_: int, name: str) -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(StageProgress.of_file("judge", done, total, name))

    training, held_out = (piece_sounds(corpus, pieces[split]) for split in ("train", "val"))
    reference = Reference.fit(training, held_out, device=device, on_progress=tell)
    save_reference(reference, path)
    return reference


def corpus_pieces(corpus: Corpus, split: str) -> list[Piece]:
    """The files of "train" or "val" in pieces of `PIECE_SECONDS`; of long splits `MOST_SECONDS`."""
    length = round(PIECE_SECONDS * corpus.sample_rate)
    pieces = [
        Piece(file=file, start=start, samples=min(length, file.samples - start))
        for file in corpus.files(split)
        for start in range(0, file.samples, length)
    ]
    share = MOST_SECONDS / max(MOST_SECONDS, corpus.seconds(split))
    return [piece for index, piece in enumerate(pieces) if int((index + 1) * share) > int(index * share)]


def piece_sounds(corpus: Corpus, pieces: list[Piece]) -> Iterator[Sound]:
    """The audio of each piece."""
    for piece in pieces:
        pcm_CT = np.empty((corpus.channels, piece.samples), dtype=np.int16)
        corpus.read_into(pcm_CT, piece.file, piece.start)
        yield Sound(piece.file.path, torch.from_numpy(pcm_CT).float() / PCM_SCALE, corpus.sample_rate)


@functools.lru_cache(maxsize=1)
def _own_digest() -> str:
    """Of the code that makes a reference: another version's features are not this one's."""
    code = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()[:12]
