"""What Ray Train costs: the codec's loop under plain torchrun, under a private Ray and on a running one.

    python3 tests/bench/ray_overhead.py OUT [--ranks N] [--steps N] [--rounds N]

The three take turns, each as a command of its own. OUT/ray_overhead.json gets, for every turn, the median
step time (of blocks of 10 steps, after which the loop waits for the device), the processor time of rank 0 and
all its threads a step (which tells the truth on a machine that others use too), and the seconds from the
command to the first step and from the last step to the end of the command; and medians over turns, with their
ratios.
On GPUs it trains the base codec with NCCL, on CPUs a small one with gloo. Needs no network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BLOCK = 10
WARM_UP = 20
KINDS = ("torchrun", "private", "running")


class TimedLoop:
    """`train_vqvae` that notes in a file when each step of rank 0 begins: wall-clock, processor seconds."""

    def __init__(self, corpus: str, config: Any, stamps: str, threads: int) -> None:
        self.corpus, self.config, self.stamps, self.threads = corpus, config, stamps, threads

    def __call__(self, worker: Any) -> Any:
        import torch

        from distill_ray.training import vqvae

        torch.set_num_threads(self.threads)
        begun: list[tuple[float, float]] = []
        original = vqvae.VQTask.train_step

        def train_step(task: Any, step: int, fraction: float) -> None:
            begun.append((time.time(), time.process_time()))
            original(task, step, fraction)

        vqvae.VQTask.train_step = train_step  # type: ignore[method-assign]
        final = vqvae.train_vqvae(self.corpus, self.config, worker)
        if worker.rank == 0:
            Path(self.stamps).write_text(json.dumps(begun))
        return final


def settings(corpus: str, steps: int, ranks: int, gpu: bool) -> Any:
    """One epoch of `steps` steps, validated once at its end."""
    from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_vqvae
    from distill_ray.corpus import open_corpus

    opened = open_corpus(corpus)
    facts = CorpusFacts(
        file_count=len(opened.manifest.files),
        train_seconds=opened.seconds("train"),
        sample_rate=opened.sample_rate,
        channels=opened.channels,
    )
    small = {"model.width": 32, "training.window_seconds": 0.25, "training.batch_size": 2 * ranks}
    overrides: dict[str, object] = {
        "training.epochs": 1,
        "training.min_epoch_steps": steps,
        "training.val_seconds": 2.0,
        "training.checkpoint_seconds": 1e6,
        "model.codebook_size": 64,
        **({} if gpu else small),
    }
    size = "base" if gpu else "tiny"
    return resolve_vqvae(
        facts,
        overrides={**overrides, "model.size": size},
        machine=MachineFacts(accelerator=gpu, workers=ranks),
    ).config


def as_rank(loop: TimedLoop, out: Path) -> None:
    """One rank of torchrun."""
    import torch.distributed as dist
    from bench_device import begin, worker_in

    device = begin()
    loop(worker_in(out / "checkpoints", device))
    dist.destroy_process_group()


def as_driver(loop: TimedLoop, out: Path, ranks: int) -> None:
    """The driver of Ray Train: a private Ray, or the one at RAY_ADDRESS."""
    import ray.cloudpickle

    from distill_ray.runtime.launch import launch
    from distill_ray.runtime.plan import WorkerPlan

    ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    launch(loop, run_dir=out, plan=WorkerPlan(num_workers=ranks), listener=lambda event: None)


def turn(
    kind: str, arguments: argparse.Namespace, number: int, environment: dict[str, str]
) -> dict[str, Any]:
    """Run one command; its figures."""
    out = Path(arguments.out) / f"{kind}-{number}"
    stamps = out.with_suffix(".stamps.json")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.ranks}"]
    command = [
        sys.executable,
        *(torchrun if kind == "torchrun" else []),
        __file__,
        str(arguments.out),
        f"--ranks={arguments.ranks}",
        f"--steps={arguments.steps}",
        f"--part={'rank' if kind == 'torchrun' else 'driver'}",
        f"--into={out}",
        f"--stamps={stamps}",
    ]
    started = time.time()
    with out.with_suffix(".log").open("w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    ended = time.time()
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{out.with_suffix('.log').read_text()[-3000:]}")
    stamped = json.loads(stamps.read_text())
    first = stamped[0][0]
    begun, busy = zip(*stamped[WARM_UP:], strict=True)
    blocks = [
        (later - earlier) / BLOCK for earlier, later in zip(begun[::BLOCK], begun[BLOCK::BLOCK], strict=False)
    ]
    return {
        "kind": kind,
        "turn": number,
        "step_s": statistics.median(blocks),
        "blocks": len(blocks),
        "cpu_s": (busy[-1] - busy[0]) / (len(busy) - 1),
        "load_average": os.getloadavg()[0],
        "to_first_step_s": first - started,
        "after_last_step_s": ended - begun[-1],
    }


@contextlib.contextmanager
def running_ray(ranks: int, gpus: int) -> Iterator[dict[str, str]]:
    """A Ray that stays; what a driver must have in its environment to use it."""
    from distill_ray.runtime.plan import ResolvedPlan
    from distill_ray.runtime.ray_session import ray_session

    plan = ResolvedPlan(
        num_workers=ranks, use_gpu=gpus > 0, gpus_per_worker=float(gpus > 0), address=None, reason="benchmark"
    )
    with ray_session(plan) as session:
        assert session.folder is not None
        yield {
            "RAY_ADDRESS": session.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(session.folder / "token"),
        }


def prepare(out: Path, gpu: bool) -> str:
    """A corpus of decaying tones, two minutes (6 s on a CPU), prepared once."""
    import numpy as np
    import soundfile

    from distill_ray.config.corpus import CorpusConfig
    from distill_ray.corpus import prepare_corpus

    rate, count, seconds = (44_100, 24, 5.0) if gpu else (16_000, 6, 1.0)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        moments = np.arange(int(seconds * rate)) / rate
        tone = np.sin(2 * np.pi * 110 * 2 ** rng.uniform(0, 4) * moments) * np.exp(-(moments % 1.0) * 3)
        soundfile.write(out / "audio" / f"{number}.wav", 0.3 * tone, rate)
    config = CorpusConfig(sample_rate=rate, channels=1, val_fraction=0.2)
    prepare_corpus([out / "audio"], out / "corpus", config=config)
    return str(out / "corpus")


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the turns of each kind, and their ratios to torchrun's."""
    keys = ("step_s", "cpu_s", "to_first_step_s", "after_last_step_s")
    medians = {
        kind: {key: statistics.median(each[key] for each in turns if each["kind"] == kind) for key in keys}
        for kind in KINDS
    }
    ratios = {
        f"{kind}_{key[:-2]}_ratio": medians[kind][key] / medians["torchrun"][key]
        for kind in KINDS[1:]
        for key in ("step_s", "cpu_s")
    }
    return {"medians": medians, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=("rank", "driver"))
    parser.add_argument("--into")
    parser.add_argument("--stamps")
    arguments = parser.parse_args()

    import torch

    gpus = torch.cuda.device_count()
    arguments.steps = arguments.steps or (620 if gpus else 120)
    out = Path(arguments.out).resolve()
    if arguments.part:
        threads = max(1, len(os.sched_getaffinity(0)) // arguments.ranks)
        config = settings(str(out / "corpus"), arguments.steps, arguments.ranks, gpus > 0)
        loop = TimedLoop(str(out / "corpus"), config, arguments.stamps, threads)
        if arguments.part == "rank":
            as_rank(loop, Path(arguments.into))
        else:
            as_driver(loop, Path(arguments.into), arguments.ranks)
        return

    if (out / "corpus").exists():
        raise SystemExit(f"{out} has runs of before, which would be resumed: name a new folder")
    prepare(out, gpus > 0)
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(
        os.pathsep
    )
    environment = {**os.environ, "PYTHONPATH": path}
    os.environ["PYTHONPATH"] = path  # for the workers of the running Ray
    turns = []
    with running_ray(arguments.ranks, gpus and arguments.ranks) as running:
        for number in range(arguments.rounds):
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                extra = running if kind == "running" else {"RAY_ADDRESS": "local"}
                turns.append(turn(kind, arguments, number, {**environment, **extra}))
                print(json.dumps(turns[-1]), flush=True)
    document = {
        "machine": {
            "host": socket.gethostname(),
            "cpus": len(os.sched_getaffinity(0)),
            "load": os.getloadavg(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(gpus)],
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "ranks": arguments.ranks,
        "steps": arguments.steps,
        "turns": turns,
        **summary(turns),
    }
    (out / "ray_overhead.json").write_text(json.dumps(document, indent=1))
    print(json.dumps(summary(turns), indent=1))


if __name__ == "__main__":
    main()
