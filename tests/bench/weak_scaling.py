"""Codec steps on every GPU of a host, the batch growing with them, and what a step consists of:

    for ranks in 1 2; do
      python3 -m torch.distributed.run --standalone --nproc-per-node=$ranks tests/bench/weak_scaling.py OUT
    done

Each run leaves OUT/ranks-N.json: the median step time of blocks, the throughput of all ranks, and by device
events the milliseconds of gradients up to the all-reduce, of the all-reduces, and of what comes after. On
CPUs it runs a small codec over gloo, to try the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from bench_device import begin, wait
from scaling import synthetic_corpus

from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_vqvae
from distill_ray.corpus import Corpus
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import ProcessGroupWorker

BLOCK, BLOCKS = 20, 5


class TimedWorker(ProcessGroupWorker):
    """Notes when each all-reduce begins and ends on the device."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.noting = False

    def all_reduce(self, tensor: Tensor) -> Tensor:
        with self._noted():
            return super().all_reduce(tensor)

    def average(self, tensor: Tensor) -> Tensor:
        with self._noted():
            return super().average(tensor)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        if not self.noting:
            yield
            return
        span = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        span[0].record()
        yield
        span[1].record()
        self.spans.append(span)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--batches", type=int, nargs="*", default=[96], help="windows of one rank")
    options = parser.parse_args()
    device = begin()
    gpu, ranks, rank = device.type == "cuda", dist.get_world_size(), dist.get_rank()
    corpus = synthetic_corpus(Path(f"/tmp/weak-scaling-{rank}"), 0.1)
    rows = [scaled(corpus, batch if gpu else 2, ranks, device, options.out) for batch in options.batches]
    if rank == 0:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"ranks-{ranks}.json").write_text(json.dumps(rows, indent=1))
    dist.destroy_process_group()


def scaled(corpus: Corpus, batch: int, ranks: int, device: torch.device, out: Path) -> dict[str, Any]:
    """What a step of `ranks` times `batch` windows takes."""
    gpu = device.type == "cuda"
    facts = CorpusFacts(file_count=30, train_seconds=corpus.seconds("train"), sample_rate=44_100, channels=1)
    overrides: dict[str, object] = {"training.batch_size": ranks * batch}
    if gpu:
        overrides |= {"model.codebook_size": 1024, "model.num_quantizers": 9}
    size = "base" if gpu else "tiny"
    config = resolve_vqvae(
        facts,
        overrides={**overrides, "model.size": size},
        machine=MachineFacts(accelerator=gpu, workers=ranks),
    ).config
    worker = TimedWorker(out / f"run-{ranks}", device=device, listener=lambda event: None)
    task = VQTask(corpus, config, worker)
    for step in range(BLOCK):
        task.train_step(step, 0.1)
    blocks = []
    for block in range(1, BLOCKS + 1):
        wait(device)
        began = time.perf_counter()
        for step in range(block * BLOCK, (block + 1) * BLOCK):
            task.train_step(step, 0.1)
        wait(device)
        blocks.append(1e3 * (time.perf_counter() - began) / BLOCK)
    seconds = config.training.batch_size * config.window_samples / config.model.sample_rate
    row: dict[str, Any] = {
        "ranks": ranks,
        "windows_per_rank": batch,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "step_ms": statistics.median(blocks),
        "audio_s_per_s": 1e3 * seconds / statistics.median(blocks),
        "blocks_ms": blocks,
        **(parts(task, worker) if gpu else {}),
    }
    if worker.rank == 0:
        print({key: value for key, value in row.items() if key != "blocks_ms"}, flush=True)
    return row


def parts(task: VQTask, worker: TimedWorker) -> dict[str, float]:
    """Milliseconds of a step's parts on the device, the host waiting after each step: medians."""
    rows = []
    for step in range(1000, 1000 + BLOCK):
        worker.noting, worker.spans = True, []
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        task.train_step(step, 0.1)
        last.record()
        torch.cuda.synchronize()
        worker.noting = False
        reduces = [begin.elapsed_time(end) for begin, end in worker.spans]
        gradients = first.elapsed_time(worker.spans[0][0])
        rows.append((gradients, sum(reduces), first.elapsed_time(last) - gradients - sum(reduces)))
    names = ("until_all_reduce_ms", "all_reduces_ms", "rest_ms")
    return {
        name: statistics.median(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


if __name__ == "__main__":
    main()
