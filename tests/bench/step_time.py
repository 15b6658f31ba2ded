"""One codec training step on a GPU: plain and with Triton kernels, eager and as a CUDA graph, in turn:

    python3 tests/bench/step_time.py OUT [SIZE…] [--batches 48 96 192]

Checks that a way's eager and captured losses are the same and that kernels give those of plain steps, writes
the GPU's kernels by time (OUT/kernels-SIZE.txt), what the host does (OUT/host-SIZE.txt), where it waits, and
the fastest way's throughput and peak memory against batch size.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import io
import json
import pstats
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from scaling import synthetic_corpus

from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_vqvae
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker

STEPS, ROUNDS = 40, 3
WAYS = {
    "plain eager": {"kernels": "off", "capture": "off"},
    "plain captured": {"kernels": "off"},
    "kernels eager": {"capture": "off"},
    "kernels captured": {},
}
FASTEST = "kernels captured"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("sizes", nargs="*", default=["base"])
    parser.add_argument("--batches", nargs="*", type=int, default=[])
    options = parser.parse_args()
    corpus = synthetic_corpus(Path("/tmp/step-time-corpus"), 0.5)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for size in options.sizes:
        found[size] = ways(corpus, size, options.out)
        found[size]["batches"] = [by_batch(corpus, size, batch) for batch in options.batches]
        (options.out / "step_time.json").write_text(json.dumps(found, indent=1))


def task_of(corpus: Corpus, size: str, way: str, **overrides: object) -> VQTask:
    facts = CorpusFacts(file_count=30, train_seconds=corpus.seconds("train"), sample_rate=44_100, channels=1)
    chosen = {"model.codebook_size": 1024, "model.num_quantizers": 9, **overrides}
    config = resolve_vqvae(
        facts, overrides={**chosen, "model.size": size}, machine=MachineFacts(accelerator=True)
    ).config
    training = dataclasses.replace(config.training, **WAYS[way])
    worker = LocalWorker(Path("/tmp/step-time") / way, device=torch.device("cuda:0"))
    return VQTask(corpus, dataclasses.replace(config, training=training), worker)


def seconds_of(config: VQTrainConfig) -> float:
    return config.training.batch_size * config.window_samples / config.model.sample_rate


def ways(corpus: Corpus, size: str, out: Path) -> dict[str, Any]:
    tasks: dict[str, VQTask] = {}
    losses: dict[str, list[float]] = {way: [] for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    first_steps_s: dict[str, float] = {}
    for way in WAYS:
        began = time.perf_counter()
        tasks[way] = task_of(corpus, size, way)
        for step in range(10):
            tasks[way].train_step(step, 0.1)
            losses[way].append(float(tasks[way].sums[0]))
        first_steps_s[way] = time.perf_counter() - began
        print(size, way, "set up and ten steps", round(first_steps_s[way], 1), "s", flush=True)
    for turn in range(ROUNDS):
        for way, task in tasks.items():
            times[way].append(timed(task, 10 + turn * STEPS, STEPS))
            losses[way].append(float(task.sums[0]))
    seconds = seconds_of(tasks[FASTEST].config)
    row: dict[str, Any] = {
        way: {
            "step_ms": statistics.median(times[way]),
            "audio_s_per_s": 1e3 * seconds / statistics.median(times[way]),
            "host_ms": host_ms(task),
            "host_waits": host_waits(task),
            "first_steps_s": first_steps_s[way],
            "losses": losses[way],
        }
        for way, task in tasks.items()
    }
    for way, values in row.items():
        print(size, way, {key: value for key, value in values.items() if key != "losses"}, flush=True)
    row["captured_as_eager"] = {
        kind: losses[f"{kind} eager"] == losses[f"{kind} captured"] for kind in ("plain", "kernels")
    }
    row["kernels_over_plain"] = [
        one / other for one, other in zip(losses[FASTEST], losses["plain captured"], strict=True)
    ]
    print(
        size, row["captured_as_eager"], [round(ratio, 5) for ratio in row["kernels_over_plain"]], flush=True
    )
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for step in range(200, 205):
            tasks[FASTEST].train_step(step, 0.1)
        torch.cuda.synchronize()
    table = profile.key_averages().table(sort_by="cuda_time_total", row_limit=60, max_name_column_width=70)
    (out / f"kernels-{size}.txt").write_text(table)
    host = cProfile.Profile()
    host.enable()
    for step in range(205, 245):
        tasks[FASTEST].train_step(step, 0.1)
    host.disable()
    text = io.StringIO()
    pstats.Stats(host, stream=text).sort_stats("cumulative").print_stats(45)
    (out / f"host-{size}.txt").write_text(text.getvalue())
    return row


def timed(task: VQTask, first: int, count: int) -> float:
    """Milliseconds a step."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for step in range(first, first + count):
        task.train_step(step, 0.1)
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / count


def host_ms(task: VQTask) -> float:
    """Milliseconds that the host needs to start a step, the GPU idle before."""
    spent = []
    for step in range(151, 161):
        torch.cuda.synchronize()
        began = time.perf_counter()
        task.train_step(step, 0.1)
        spent.append(1e3 * (time.perf_counter() - began))
    return statistics.median(spent)


def host_waits(task: VQTask) -> list[str]:
    """Where fifty steps make the host wait for the GPU: but for the one that re-seeds codes, nowhere."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for step in range(161, 211):
            task.train_step(step, 0.1)
        torch.cuda.set_sync_debug_mode("default")
    return [f"{each.filename}:{each.lineno}" for each in caught if "synchronizing" in str(each.message)]


def by_batch(corpus: Corpus, size: str, batch: int) -> dict[str, float]:
    """The fastest way at a batch size: milliseconds, throughput, peak memory of training alone."""
    torch.cuda.empty_cache()
    task = task_of(corpus, size, FASTEST, **{"training.batch_size": batch})
    torch.cuda.reset_peak_memory_stats()
    timed(task, 0, 10)
    step_ms = statistics.median(timed(task, 10 + turn * 20, 20) for turn in range(3))
    row = {
        "batch": batch,
        "step_ms": step_ms,
        "audio_s_per_s": 1e3 * seconds_of(task.config) / step_ms,
        "peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gigabytes": torch.cuda.max_memory_reserved() / 1e9,
    }
    print(size, {key: round(value, 2) for key, value in row.items()}, flush=True)
    return row


if __name__ == "__main__":
    main()
