"""What grows with the corpus, the model and the number of runs: python3 tests/bench/scaling.py OUT.

Run by hand; writes OUT/scaling.json and prints a table of each part (`--parts` for some of them):
corpus   opening, first use and cost of a step with synthetic shards from a minute to a hundred hours
mapped   the same corpora memory-mapped: opening, and windows from the disk and from the page cache
prepare  seconds of audio decoded a second, by one thread and by all
sizes    bytes all-reduced a step, size and time of a checkpoint
events   lag of event records when 64 runs post to one mailbox at 5 records a second each
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import platform
import resource
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_vqvae
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import AudioStore, Corpus, WindowSampler, open_corpus, prepare_corpus
from distill_ray.corpus.manifest import SHARD_FOLDER, CorpusFile, Manifest, write_manifest
from distill_ray.corpus.shards import ShardWriter
from distill_ray.storage.storage import open_storage
from distill_ray.training.vq_batch import VQBatches
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker

RATE = 44_100
FILE_SECONDS = 60
SHARD_FILES = 50
WARM_UP, STEPS = 10, 60


class CountingWorker(LocalWorker):
    """One process that counts what it would have all-reduced."""

    reduced = 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        self.reduced += tensor.numel() * tensor.element_size()
        return tensor


def synthetic_corpus(folder: Path, hours: float, most_bytes: float = math.inf) -> Corpus:
    """Minutes of noise, every file another stretch of it; a twentieth of the files is held out.

    Beyond `most_bytes`, further shards are links to the first ones.
    """
    count = max(2, round(hours * 3600 / FILE_SECONDS))
    noise = np.random.default_rng(0).integers(-8000, 8000, 3 * FILE_SECONDS * RATE).astype(np.int16)
    storage, files, shards, written = open_storage(folder), [], [], 0.0
    for first in range(0, count, SHARD_FILES):
        name, indices = f"{first:032x}.arrow", range(first, min(count, first + SHARD_FILES))
        linked = written > most_bytes and len(indices) == SHARD_FILES
        if linked:
            model = shards[len(shards) % int(most_bytes / shards[0].bytes)]
            (folder / SHARD_FOLDER / name).hardlink_to(folder / SHARD_FOLDER / model.name)
            shards.append(dataclasses.replace(model, name=name))
        with contextlib.nullcontext() if linked else ShardWriter(storage, name, channels=1) as writer:
            for row, index in enumerate(indices):
                start = index * 7919 % (2 * FILE_SECONDS * RATE)
                files.append(
                    CorpusFile(
                        path=f"{index}.wav",
                        sha256=f"{index:064x}",
                        samples=FILE_SECONDS * RATE,
                        split="val" if index % 20 == 1 else "train",
                        source_rate=RATE,
                        source_channels=1,
                        clipped=0,
                        shard=name,
                        start=row * FILE_SECONDS * RATE,
                    )
                )
                if writer is not None:
                    writer.append(noise[None, start : start + FILE_SECONDS * RATE])
        if writer is not None:
            shards.append(writer.info)
            written += writer.info.bytes
    write_manifest(storage, Manifest(sample_rate=RATE, channels=1, files=tuple(files), shards=tuple(shards)))
    return open_corpus(folder)


def task_on(corpus: Corpus, folder: Path, size: str, device: torch.device) -> tuple[VQTask, CountingWorker]:
    """A codec in training as `train --size SIZE` would make it, 9 levels of 1024 codes."""
    worker = CountingWorker(folder / "checkpoints", device=device)
    return VQTask(corpus, settings_for(corpus, size, device.type == "cuda"), worker), worker


def settings_for(corpus: Corpus, size: str, accelerator: bool) -> VQTrainConfig:
    facts = CorpusFacts(
        file_count=len(corpus.manifest.files),
        train_seconds=corpus.seconds("train"),
        sample_rate=RATE,
        channels=1,
    )
    codes = {"model.codebook_size": 1024, "model.num_quantizers": 9}
    return resolve_vqvae(
        facts, overrides={**codes, "model.size": size}, machine=MachineFacts(accelerator=accelerator)
    ).config


def seconds_of(device: torch.device, act: Any) -> float:
    began = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def corpus_row(folder: Path, hours: float, device: torch.device, size: str) -> dict[str, Any]:
    began = time.perf_counter()
    synthetic_corpus(folder, hours)
    written = time.perf_counter() - began
    began = time.perf_counter()
    corpus = open_corpus(folder)
    opened = time.perf_counter() - began
    began = time.perf_counter()
    resident = AudioStore(corpus, "train", device).resident
    loaded = time.perf_counter() - began
    task, _ = task_on(corpus, folder, size, device)
    mapped = VQBatches(AudioStore(corpus, "train", device, max_bytes=0), task.config, rank=0, world_size=1)
    from_disk = [seconds_of(device, lambda step=step: mapped.batch(step)) for step in range(WARM_UP + STEPS)]
    batches = [
        seconds_of(device, lambda step=step: task.batches.batch(step)) for step in range(WARM_UP + STEPS)
    ]
    steps = [
        seconds_of(device, lambda step=step: task.train_step(step, 0.5)) for step in range(WARM_UP + STEPS)
    ]
    return {
        "hours": hours,
        "files": len(corpus.manifest.files),
        "gigabytes": sum(shard.bytes for shard in corpus.manifest.shards) / 1e9,
        "manifest_megabytes": (folder / "distill-corpus.json").stat().st_size / 1e6,
        "write_s": written,
        "open_s": opened,
        "load_s": loaded,
        "resident": resident,
        "batch_ms": 1e3 * statistics.median(batches[WARM_UP:]),
        "batch_ms_memory_mapped": 1e3 * statistics.median(from_disk[WARM_UP:]),
        "step_ms": 1e3 * statistics.median(steps[WARM_UP:]),
        "steps_per_epoch": task.steps_per_epoch,
        "peak_rss_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def mapped_row(folder: Path, hours: float, most_bytes: float) -> dict[str, Any]:
    """Windows as `base` on a GPU takes them, 96 of 0.75 s a step, read into host memory."""
    device = torch.device("cpu")
    synthetic_corpus(folder, hours, most_bytes)
    on_disk: dict[int, int] = {}
    for shard in (folder / SHARD_FOLDER).iterdir():  # out of the page cache
        on_disk[shard.stat().st_ino] = shard.stat().st_size
        with shard.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    corpus = open_corpus(folder)
    opened = time.perf_counter() - began
    config = settings_for(corpus, "base", True)
    began = time.perf_counter()
    store = AudioStore(corpus, "train", device, max_bytes=0)
    made = time.perf_counter() - began
    sampler = WindowSampler(store.lengths_N, config.window_samples, config.training.seed)
    drawn = [sampler.batch(step, config.training.batch_size) for step in range(WARM_UP + STEPS)]

    def read(step: int) -> None:
        store.gather(drawn[step].file_B, drawn[step].start_B, config.window_samples)

    def milliseconds(act: Callable[[int], object]) -> list[float]:
        return [1e3 * seconds_of(device, lambda step=step: act(step)) for step in range(WARM_UP + STEPS)]

    cold, warm = milliseconds(read), milliseconds(read)
    processor_ms = []
    for act in (read, VQBatches(store, config, rank=0, world_size=1).batch):
        began = time.process_time()
        milliseconds(act)
        processor_ms.append(1e3 * (time.process_time() - began) / (WARM_UP + STEPS))
    return {
        "hours": hours,
        "files": len(corpus.manifest.files),
        "gigabytes": sum(shard.bytes for shard in corpus.manifest.shards) / 1e9,
        "gigabytes_on_disk": sum(on_disk.values()) / 1e9,
        "manifest_megabytes": (folder / "distill-corpus.json").stat().st_size / 1e6,
        "open_ms": 1e3 * opened,
        "store_ms": 1e3 * made,
        "batch_windows": config.training.batch_size,
        "first_read_ms": cold[0],
        "read_ms_from_disk": statistics.median(cold[1:]),
        "read_ms_cached": statistics.median(warm),
        "read_ms_cached_least": min(warm),
        "read_processor_ms": processor_ms[0],  # what other programs on the machine do not add to
        "batch_processor_ms": processor_ms[1],  # with the arithmetic that a GPU would do
        "load_average": os.getloadavg()[0],
    }


def size_row(corpus: Corpus, folder: Path, size: str, device: torch.device) -> dict[str, Any]:
    task, worker = task_on(corpus, folder, size, device)
    for step in range(WARM_UP):
        task.train_step(step, 0.5)
    before, steps = worker.reduced, 50  # one of them looks for dead codes
    began = time.perf_counter()
    for step in range(WARM_UP, WARM_UP + steps):
        task.train_step(step, 0.5)
    if device.type == "cuda":
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - began
    parameters = sum(value.numel() for value in task.model.parameters())
    target = folder / f"checkpoint-{size}"
    target.mkdir()
    write_s = seconds_of(device, lambda: task.write(target))
    read_s = seconds_of(device, lambda: task.read(target))
    return {
        "size": size,
        "parameters": parameters,
        "gradient_bytes": 4 * sum(value.numel() for value in task.model.parameters() if value.requires_grad),
        "statistics_bytes": (worker.reduced - before) / steps,
        "step_ms": 1e3 * elapsed / steps,
        "checkpoint_megabytes": sum(file.stat().st_size for file in target.iterdir()) / 1e6,
        "checkpoint_write_s": write_s,
        "checkpoint_read_s": read_s,
    }


def prepare_rows(folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    files, rows = 4 * (os.cpu_count() or 1), []
    for name, rate, channels in (("wav", 44_100, 1), ("flac", 48_000, 2)):
        source = folder / f"source-{name}"
        source.mkdir()
        time_T = np.arange(FILE_SECONDS * rate) / rate
        for index in range(files):
            tone_T = 0.3 * np.sin(2 * np.pi * (110 + index) * time_T) + rng.normal(0, 0.02, len(time_T))
            soundfile.write(source / f"{index}.{name}", np.stack([tone_T] * channels, axis=1), rate)
        for workers in (1, os.cpu_count() or 1):
            began = time.perf_counter()
            prepare_corpus(
                [source], folder / f"prepared-{name}-{workers}", config=CorpusConfig(), workers=workers
            )
            elapsed = time.perf_counter() - began
            rows.append(
                {
                    "source": f"{name} {rate} Hz, {channels} channels",
                    "threads": workers,
                    "audio_seconds_per_second": files * FILE_SECONDS / elapsed,
                }
            )
    return rows


def event_row(runs: int = 64, rate: float = 5.0, seconds: float = 10.0) -> dict[str, Any]:
    """Each of `runs` threads posts epoch-sized records as a rank 0 would; the driver drains as it does."""
    from distill_ray.runtime.plan import ResolvedPlan
    from distill_ray.runtime.ray_session import ray_session

    plan = ResolvedPlan(num_workers=1, use_gpu=False, gpus_per_worker=0.0, address=None, reason="bench")
    lags: list[float] = []
    with ray_session(plan):
        import ray

        from distill_ray.runtime.mailbox import RANK_0, open_mailbox

        with open_mailbox() as mailbox:
            ends = time.time() + seconds

            def post(run: int) -> None:
                while time.time() < ends:
                    record = {"run": run, "time": time.time(), "figures": [0.5] * 60}
                    ray.get(mailbox.post.remote(RANK_0, [record]))
                    time.sleep(1 / rate)

            threads = [threading.Thread(target=post, args=(run,)) for run in range(runs)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.1)
                records = ray.get(mailbox.collect.remote())
                lags += [time.time() - record["time"] for _, record in records]
    lags.sort()
    return {
        "runs": runs,
        "records": len(lags),
        "median_lag_s": statistics.median(lags),
        "lag_99_s": lags[int(0.99 * len(lags))],
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    for row in rows:
        print(
            "  " + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=float, nargs="+", default=[1 / 60, 1 / 6, 1, 10, 100])
    parts = ("sizes", "prepare", "events", "mapped", "corpus")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--most-gigabytes", type=float, default=math.inf, help="disk for `mapped`")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/distill-ray-scaling"))
    options = parser.parse_args()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    sizes = ("tiny", "small", "base") if device.type == "cuda" else ("tiny",)
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        }
    }
    try:
        if "sizes" in options.parts:
            small = options.scratch / "sizes"
            corpus = synthetic_corpus(small, 1 / 6)
            found["sizes"] = [size_row(corpus, small, size, device) for size in sizes]
            show("sizes", found["sizes"])
        if "prepare" in options.parts:
            found["prepare"] = prepare_rows(options.scratch)
            show("prepare", found["prepare"])
        if "events" in options.parts:
            found["events"] = [event_row()]
            show("events", found["events"])
        place = options.scratch / "corpus"
        for part in ("mapped", "corpus"):
            for hours in options.hours if part in options.parts else ():
                most = 1e9 * options.most_gigabytes
                row = (
                    mapped_row(place, hours, most)
                    if part == "mapped"
                    else corpus_row(place, hours, device, sizes[-1])
                )
                found.setdefault(part, []).append(row)
                shutil.rmtree(place)
                show(part, [row])
    finally:
        (options.out / "scaling.json").write_text(json.dumps(found, indent=1))
        shutil.rmtree(options.scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
