"""One codec training step on a GPU, eager and as a CUDA graph: python3 tests/bench/step_time.py OUT [SIZE…].

Takes turns between both, checks that they give the same losses, and writes the kernels by time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from scaling import synthetic_corpus

from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker

STEPS, ROUNDS = 40, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("sizes", nargs="*", default=["base", "small"])
    options = parser.parse_args()
    device = torch.device("cuda:0")
    corpus = synthetic_corpus(Path("/tmp/step-time-corpus"), 0.5)
    facts = CorpusFacts(file_count=30, train_seconds=corpus.seconds("train"), sample_rate=44_100, channels=1)
    found: dict[str, Any] = {}
    for size in options.sizes:
        config = resolve_vqvae(
            facts,
            overrides={"model.codebook_size": 1024, "model.num_quantizers": 9},
            size=size,
            accelerator=True,
            workers=1,
        ).config
        tasks = {}
        for way in ("eager", "captured"):
            training = dataclasses.replace(config.training, capture="auto" if way == "captured" else "off")
            worker = LocalWorker(Path("/tmp/step-time") / way, device=device)
            tasks[way] = VQTask(corpus, dataclasses.replace(config, training=training), worker)
        losses: dict[str, list[float]] = {way: [] for way in tasks}
        times: dict[str, list[float]] = {way: [] for way in tasks}
        for step in range(10):
            for way, task in tasks.items():
                task.train_step(step, 0.1)
                losses[way].append(float(task.sums[0]))
        for turn in range(ROUNDS):
            for way, task in tasks.items():
                torch.cuda.synchronize()
                began = time.perf_counter()
                for step in range(10 + turn * STEPS, 10 + (turn + 1) * STEPS):
                    task.train_step(step, 0.1)
                torch.cuda.synchronize()
                times[way].append(1e3 * (time.perf_counter() - began) / STEPS)
                losses[way].append(float(task.sums[0]))
        seconds = config.training.batch_size * config.window_samples / 44_100
        row = {
            way: {
                "step_ms": statistics.median(times[way]),
                "audio_s_per_s": 1e3 * seconds / statistics.median(times[way]),
                "host_ms": host_ms(tasks[way]),
                "losses": losses[way],
            }
            for way in tasks
        }
        row["same_losses"] = losses["eager"] == losses["captured"]
        row["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        found[size] = row
        print(
            size,
            {
                k: v if not isinstance(v, dict) else {a: b for a, b in v.items() if a != "losses"}
                for k, v in row.items()
            },
            flush=True,
        )
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for step in range(200, 205):
                tasks["captured"].train_step(step, 0.1)
            torch.cuda.synchronize()
        table = profile.key_averages().table(
            sort_by="cuda_time_total", row_limit=40, max_name_column_width=90
        )
        (options.out / f"kernels-{size}.txt").write_text(table)
    (options.out / "step_time.json").write_text(json.dumps(found, indent=1))


def host_ms(task: VQTask) -> float:
    """Milliseconds that the host needs to start a step, the GPU idle before."""
    spent = []
    for step in range(150, 160):
        torch.cuda.synchronize()
        began = time.perf_counter()
        task.train_step(step, 0.1)
        spent.append(1e3 * (time.perf_counter() - began))
    return statistics.median(spent)


if __name__ == "__main__":
    main()
