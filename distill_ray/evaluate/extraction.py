"""What the judge asks of a corpus about copying: the detector of copies, and continuations of its recordings.

`copies.py` and `prior/extraction.py` do the work. Legend: C channels, Q RVQ levels, T code frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.corpus import PCM_SCALE, Corpus, CorpusFile
from distill_ray.evaluate.copies import CopyDetector
from distill_ray.evaluate.sound import Sound
from distill_ray.events.records import StageProgress
from distill_ray.prior.extraction import PROMPTS, Extraction, excerpt_frames, prompted_extraction

MARGIN_FRAMES = 64
"""Encoded beside an excerpt, so that its codes are those of the whole recording."""


def corpus_copy_detector(
    corpus: Corpus,
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[StageProgress], None] | None = None,
) -> CopyDetector:
    """The detector of copies from the corpus's training files, calibrated on its held-out files."""
    total = sum(len(corpus.files(split)) for split in ("train", "val"))
    done = 0

    def tell(_done: int, _total: int, name: str) -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(StageProgress.of_file("copies", min(done, total), total, name))

    training, held_out = (_sounds(corpus, split) for split in ("train", "val"))
    return CopyDetector.fit(training, held_out, device=device, on_progress=tell)


def corpus_extraction(loaded: LoadedVQModel, corpus: Corpus) -> Extraction:
    """Continuations of training and held-out excerpts by the model's prior, which it must have."""
    assert loaded.prior is not None, "a model without a prior continues nothing"
    frame_rate = loaded.vqvae_config.frame_rate
    frames = excerpt_frames(loaded.prior, frame_rate)
    training, held_out = (list(_codes(loaded, corpus, split, frames)) for split in ("train", "val"))
    return prompted_extraction(loaded.prior, training, held_out, frame_rate=frame_rate)


def _sounds(corpus: Corpus, split: str) -> Iterator[Sound]:
    for file in corpus.files(split):
        yield Sound(file.path, corpus.read(file).float() / PCM_SCALE, corpus.sample_rate)


@torch.inference_mode()
def _codes(loaded: LoadedVQModel, corpus: Corpus, split: str, frames: int) -> Iterator[Tensor]:
    """codes_QT of about `PROMPTS` excerpts of `frames` frames, evenly over the files that are long enough."""
    hop = loaded.vqvae_config.frame_hop
    places = [
        (file, start)
        for file in corpus.files(split)
        for start in range(0, file.samples // hop - frames + 1, frames)
    ]
    for file, start in places[:: max(1, len(places) // PROMPTS)]:
        begin = max(0, start - MARGIN_FRAMES)
        end = min(file.samples // hop, start + frames + MARGIN_FRAMES)
        audio_CT = _read(corpus, file, begin * hop, (end - begin) * hop)
        codes_1QT = loaded.model.encode(audio_CT[None].to(loaded.device))
        yield codes_1QT[0, :, start - begin :][:, :frames].cpu()


def _read(corpus: Corpus, file: CorpusFile, start: int, samples: int) -> Tensor:
    pcm_CT = np.empty((corpus.channels, samples), dtype=np.int16)
    corpus.read_into(pcm_CT, file, start)
    return torch.from_numpy(pcm_CT).float() / PCM_SCALE
