"""Many bake-off runs over all GPUs of a machine, one at a time on each: python3 tests/bench/pool.py JOBS OUT

JOBS is a file of lines "NAME FOLDER SECONDS CODEC [ARG…]", the last two as `bakeoff.py` has them; # begins a
comment. Each GPU takes the next line when it is free, so put the longest first. Runs that would end after
`--limit` seconds are not begun. Each run leaves WORK/NAME/{row-CODEC.json, log-CODEC, heard/}, so that runs
of one NAME make one table; what comes back is OUT/rows.tar, OUT/heard-N.tar (each under the 16 MiB that one
file may have) and one line a run on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from held_out import bench_corpus

LARGEST_BYTES = 15 << 20
SET_UP_SECONDS, SCORING_SECONDS = 20.0, 60.0
"""What a run takes beside its budget, at most: imports and corpus; EnCodec's scores at every depth."""
SHOWN = ("best_val_loss", "last_val_loss", "mel", "stft", "si_sdr_db", "steps", "steady_audio_s_per_s")


@dataclass(frozen=True, kw_only=True)
class Job:
    name: str
    folder: str
    seconds: float
    codec: str
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, line: str) -> Job:
        name, folder, seconds, codec, *arguments = line.split()
        return cls(name=name, folder=folder, seconds=float(seconds), codec=codec, arguments=tuple(arguments))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/pool"))
    parser.add_argument("--gpus", nargs="*", default=[str(gpu) for gpu in range(torch.cuda.device_count())])
    parser.add_argument("--limit", type=float, default=540.0)
    options = parser.parse_args()
    began = time.monotonic()
    lines = [line.partition("#")[0].strip() for line in options.jobs.read_text().splitlines()]
    jobs = [Job.parse(line) for line in lines if line]
    options.out.mkdir(parents=True, exist_ok=True)
    folders = sorted({job.folder for job in jobs})
    corpora = {
        folder: options.work / "corpora" / f"{number}-{Path(folder).name}"
        for number, folder in enumerate(folders)
    }
    with ProcessPoolExecutor() as pool:
        list(pool.map(prepare, corpora, corpora.values()))
    print(f"{len(folders)} corpora after {time.monotonic() - began:.0f} s", flush=True)
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def work(gpu: str) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job = waiting.get_nowait()
                left = options.limit - (time.monotonic() - began)
                if left < job.seconds + SET_UP_SECONDS:
                    print(f"{job.name}: not begun, {left:.0f} s left", flush=True)
                else:
                    run(job, gpu, corpora[job.folder], options.work / job.name, left)

    threads = [threading.Thread(target=work, args=(gpu,)) for gpu in options.gpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pack(options.work, [job.name for job in jobs], options.out)
    print(f"all after {time.monotonic() - began:.0f} s", flush=True)


def prepare(folder: str, place: Path) -> None:
    bench_corpus(folder, place)


def run(job: Job, gpu: str, corpus: Path, place: Path, left: float) -> None:
    """One run, whose failure takes no other along."""
    place.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, str(Path(__file__).with_name("bakeoff.py")), job.folder, str(place)),
        *("--seconds", str(job.seconds), "--codecs", job.codec, "--corpus", str(corpus), *job.arguments),
    ]
    began = time.monotonic()
    limit = min(left, job.seconds + SET_UP_SECONDS + SCORING_SECONDS)
    codec = job.codec.partition(":")[0]
    told_in, row = place / f"log-{codec}", place / f"row-{codec}.json"
    row.unlink(missing_ok=True)  # of a call before this one
    with told_in.open("w") as log:
        try:
            code: int | str = subprocess.run(
                command,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
                stdout=log,
                stderr=log,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"over {limit:.0f} s"
    if row.exists():
        figures = json.loads(row.read_text())
        told: object = {key: figures.get(key) for key in SHOWN}
    else:
        told = (told_in.read_text().strip().splitlines() or [""])[-1][:300]
    print(
        f"{job.name} {row.stem} on {gpu}, {time.monotonic() - began:.0f} s, exit {code}: {told}", flush=True
    )


def pack(work: Path, names: list[str], out: Path) -> None:
    """The rows and logs as one archive; what is to be heard in archives of a size that comes back."""
    names = list(dict.fromkeys(names))
    with tarfile.open(out / "rows.tar", "w") as archive:
        for name in names:
            for path in [*(work / name).glob("row-*.json"), *(work / name).glob("log-*")]:
                archive.add(path, path.relative_to(work))
    parts: list[list[Path]] = []
    size = LARGEST_BYTES
    for path in (path for name in names for path in sorted((work / name).glob("heard/*/*.flac"))):
        size += path.stat().st_size
        if size > LARGEST_BYTES:
            parts.append([])
            size = path.stat().st_size
        parts[-1].append(path)
    for number, paths in enumerate(parts):
        with tarfile.open(out / f"heard-{number}.tar", "w") as archive:
            for path in paths:
                archive.add(path, path.relative_to(work))


if __name__ == "__main__":
    main()
