"""Recordings to training windows: scan, decode, shards and manifest, windows.

Nothing here knows of codecs or training; torch is loaded only for resampling and for tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.corpus.corpus import Corpus, ensure_corpus, open_corpus
    from distill_ray.corpus.decode import PCM_SCALE, load_audio
    from distill_ray.corpus.manifest import CorpusFile, DuplicateFile, Manifest, RejectedFile
    from distill_ray.corpus.prepare import prepare_corpus
    from distill_ray.corpus.prepare_report import PrepareReport
    from distill_ray.corpus.sampler import Window, WindowBatch, WindowSampler, iter_windows
    from distill_ray.corpus.windows import AudioStore

__all__ = [
    "PCM_SCALE",
    "AudioStore",
    "Corpus",
    "CorpusFile",
    "DuplicateFile",
    "Manifest",
    "PrepareReport",
    "RejectedFile",
    "Window",
    "WindowBatch",
    "WindowSampler",
    "ensure_corpus",
    "iter_windows",
    "load_audio",
    "open_corpus",
    "prepare_corpus",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "PCM_SCALE": "distill_ray.corpus.decode",
        "AudioStore": "distill_ray.corpus.windows",
        "Corpus": "distill_ray.corpus.corpus",
        "CorpusFile": "distill_ray.corpus.manifest",
        "DuplicateFile": "distill_ray.corpus.manifest",
        "Manifest": "distill_ray.corpus.manifest",
        "PrepareReport": "distill_ray.corpus.prepare_report",
        "RejectedFile": "distill_ray.corpus.manifest",
        "Window": "distill_ray.corpus.sampler",
        "WindowBatch": "distill_ray.corpus.sampler",
        "WindowSampler": "distill_ray.corpus.sampler",
        "ensure_corpus": "distill_ray.corpus.corpus",
        "iter_windows": "distill_ray.corpus.sampler",
        "load_audio": "distill_ray.corpus.decode",
        "open_corpus": "distill_ray.corpus.corpus",
        "prepare_corpus": "distill_ray.corpus.prepare",
    },
)
