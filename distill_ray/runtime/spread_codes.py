"""Codes as tasks on all nodes of the cluster that this process is connected to; the same as made here.

`spread.py` prepares corpora that way, `shared_nodes.py` knows which nodes can take part.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from distill_ray.corpus.corpus import Corpus, open_corpus
from distill_ray.corpus.manifest import CorpusFile
from distill_ray.prior.codes import encode_file
from distill_ray.runtime.shared_nodes import nodes_that_share
from distill_ray.runtime.spread import AHEAD, TaskJob, stoppable
from distill_ray.storage.filesystem import absolute
from distill_ray.training.worker import Listener
from distill_ray.vqvae import VQVAE, encode_long

_BATCH_SECONDS = 60.0  # of audio that one task encodes


class ClusterEncoder:
    """An `EncodeAll` for the files of `corpus`, in chunks of `chunk_frames`; on GPUs where asked to and there
    are any, else on CPUs."""

    def __init__(
        self, model: VQVAE, corpus: Corpus, *, chunk_frames: int, accelerator: bool, listener: Listener
    ) -> None:
        self._model = model
        self._corpus = corpus
        self._chunk_frames = chunk_frames
        self._accelerator = accelerator
        self._listener = listener

    def __call__(self, files: Sequence[CorpusFile]) -> Iterator[torch.Tensor]:
        place = absolute(self._corpus.uri)
        nodes = nodes_that_share(place, None, self._listener) if files else None
        if nodes is None:
            device = "cuda" if self._accelerator and torch.cuda.is_available() else "cpu"
            yield from _encode_here(self._model.to(device), self._corpus, files, self._chunk_frames)
            return
        on_gpus = self._accelerator and nodes.gpus > 0
        task = ray.remote(num_cpus=1, num_gpus=int(on_gpus), scheduling_strategy="SPREAD")(_encode)
        encoding = _Encoding(
            model=ray.put(self._model.cpu()), corpus=place, chunk_frames=self._chunk_frames, on_gpu=on_gpus
        )
        batches = _batches(files, _BATCH_SECONDS * self._corpus.sample_rate)
        running: dict[Any, None] = {}  # in the order of the files
        with stoppable(running, "encoding") as flag:
            for batch in batches:
                running[task.remote(encoding, batch, flag)] = None
                if len(running) > AHEAD * (nodes.gpus if on_gpus else nodes.cpus):
                    yield from _first(running)
            while running:
                yield from _first(running)


def _first(running: dict[Any, None]) -> list[torch.Tensor]:
    """The result of the task that began first, which is then no longer among the running ones."""
    first = next(iter(running))
    result: list[torch.Tensor] = ray.get(first)
    del running[first]
    return result


def _batches(files: Sequence[CorpusFile], samples: float) -> Iterator[list[CorpusFile]]:
    batch: list[CorpusFile] = []
    filled = 0
    for file in files:
        batch.append(file)
        filled += file.samples
        if filled >= samples:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    """What encoding tasks share. `model`: a reference, so that a process fetches it once."""

    model: Any
    corpus: str
    chunk_frames: int
    on_gpu: bool


_ready: dict[_Encoding, tuple[VQVAE, Corpus]] = {}  # of this process


def _encode(encoding: _Encoding, files: Sequence[CorpusFile], flag: Any) -> list[torch.Tensor]:
    if encoding not in _ready:
        _ready.clear()
        model: VQVAE = ray.get(encoding.model).to("cuda" if encoding.on_gpu else "cpu")
        _ready[encoding] = (model, open_corpus(encoding.corpus))
    job, codes = TaskJob(flag), []
    for codes_QT in _encode_here(*_ready[encoding], files, encoding.chunk_frames):
        job.check()
        codes.append(codes_QT)
    return codes


def _encode_here(
    model: VQVAE, corpus: Corpus, files: Sequence[CorpusFile], chunk_frames: int
) -> Iterator[torch.Tensor]:
    encode = functools.partial(encode_long, model, chunk_frames=chunk_frames)
    for file in files:
        yield encode_file(encode, corpus, file).to(torch.int16)
