"""What a training step takes on this machine: on CPUs measured in a few, on GPUs the pace that H200s had."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from distill_ray.config.build import build_sections
from distill_ray.config.length import GPU_PACE, steps_per_epoch
from distill_ray.config.resolve import SIZE, MachineFacts, resolve_vqvae
from distill_ray.config.sweep import SweepConfig
from distill_ray.corpus import Corpus
from distill_ray.pipeline.budget import Steps
from distill_ray.runs.inputs import corpus_facts
from distill_ray.tune.machine import find_machine

_MEASURED = 2  # steps after the first one, which is slower


def codec_steps(corpus: Corpus, settings: Mapping[str, object]) -> tuple[Steps, int | None]:
    """The steps of one codec that is trained alone, and for how many epochs where no budget ends it."""
    return _steps(corpus, {key: value for key, value in settings.items() if not key.startswith("sweep.")}, 1)


def search_steps(
    corpus: Corpus, settings: Mapping[str, object], address: str | None
) -> tuple[Steps, int | None]:
    """The steps of a search's largest codec, as every trial makes as many, and epochs as in `codec_steps`."""
    sweep = build_sections((SweepConfig,), settings)[SweepConfig]
    with find_machine(address, sweep) as machine:
        concurrent, gpus = machine.trials.concurrent, machine.trials.gpus
    shared = {
        key: value
        for key, value in settings.items()
        if not key.startswith("sweep.") and key not in sweep.searched
    }
    largest: dict[str, object] = {
        "model.codebook_size": max(sweep.codebook_sizes),
        "model.num_quantizers": max(sweep.rvq_levels),
    }
    if sweep.sizes:
        largest[SIZE] = sweep.sizes[-1]
    return _steps(corpus, {**shared, **largest}, concurrent, accelerator=gpus > 0)


def _steps(
    corpus: Corpus, given: Mapping[str, object], concurrent: int, *, accelerator: bool | None = None
) -> tuple[Steps, int | None]:
    import torch

    on_gpu = torch.cuda.is_available() if accelerator is None else accelerator
    machine = MachineFacts(accelerator=on_gpu)
    config = resolve_vqvae(corpus_facts(corpus), overrides=given, machine=machine).config
    training = config.training
    per_epoch = steps_per_epoch(config, corpus.seconds("train"))
    if on_gpu:
        seconds = training.batch_size * training.window_seconds / GPU_PACE
        return Steps(
            per_epoch=per_epoch, seconds=seconds / concurrent, concurrent=concurrent
        ), training.epochs
    from distill_ray.training.vqvae import VQTask
    from distill_ray.training.worker import LocalWorker

    with tempfile.TemporaryDirectory(prefix="distill-ray-pace-") as folder:
        worker = LocalWorker(Path(folder), device=torch.device("cpu"))
        task = VQTask(corpus, config, worker, from_audio=False)
        task.train_step(0, 0.0)
        began = time.monotonic()
        for step in range(_MEASURED):
            task.train_step(step + 1, 0.0)
        seconds = (time.monotonic() - began) / _MEASURED
    return Steps(per_epoch=per_epoch, seconds=seconds, concurrent=concurrent), training.epochs
