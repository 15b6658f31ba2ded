"""Do two GPU ranks train as one process does, with and without a CUDA graph? By hand:
torchrun --nproc-per-node 2 tests/bench/ranks_agree.py AUDIO OUT

Every way trains the same global batch from the same seed. Prints the training loss of each block of steps,
the held-out loss at its end, and how far the ranks' weights are apart (they must not be).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bench_device import begin

from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_vqvae
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker, ProcessGroupWorker, Worker

BLOCK, BLOCKS = 25, 4


def train(corpus: Corpus, worker: Worker, capture: str) -> dict[str, Any]:
    facts = CorpusFacts(
        file_count=len(corpus.manifest.files),
        train_seconds=corpus.seconds("train"),
        sample_rate=corpus.sample_rate,
        channels=1,
    )
    overrides = {"model.codebook_size": 1024, "model.num_quantizers": 8, "training.warmup_steps": 20}
    config = resolve_vqvae(
        facts,
        overrides={**overrides, "model.size": "base"},
        machine=MachineFacts(accelerator=True, workers=2),
    ).config
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, capture=capture))
    task = VQTask(corpus, config, worker)
    rows = []
    for block in range(BLOCKS):
        for step in range(block * BLOCK, (block + 1) * BLOCK):
            task.train_step(step, step / (BLOCK * BLOCKS))
        sums = worker.all_reduce(task.sums.clone())
        held_out = task.validate()
        weights = torch.cat([value.detach().flatten() for value in task.model.parameters()])
        mean = worker.all_reduce(weights.clone()) / worker.world_size
        apart = worker.all_reduce((weights - mean).abs().max())
        rows.append({"train": float(sums[0] / sums[-1]), "held_out": held_out, "weights_apart": float(apart)})
        task.sums.zero_()
    return {"batch": config.training.batch_size, "blocks": rows}


def main() -> None:
    audio, out = sys.argv[1], Path(sys.argv[2])
    device = begin()
    rank = dist.get_rank()
    folder = Path("/tmp/ranks-agree")
    if rank == 0:
        prepare_corpus([audio], folder, config=CorpusConfig())
    dist.barrier()
    corpus = open_corpus(folder)
    found = {
        f"two ranks, capture {capture}": train(
            corpus, ProcessGroupWorker(folder / capture, device=device), capture
        )
        for capture in ("off", "auto")
    }
    if rank == 0:
        for capture in ("off", "auto"):
            found[f"one process, capture {capture}"] = train(
                corpus, LocalWorker(folder / capture, device=device), capture
            )
        for way, result in found.items():
            print(way, "batch", result["batch"])
            for row in result["blocks"]:
                print("  ", {key: round(value, 4) for key, value in row.items()}, flush=True)
        (out / "ranks_agree.json").write_text(json.dumps(found, indent=1))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
