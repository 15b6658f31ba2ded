"""What a busy machine leaves of the work on a CPU, for settings of torch's threads in turn:

    python3 tests/bench/shared_cpu.py OUT [--work codec tiny decode] [--busy 0 1 6]
        [--rounds 3] [--seconds 3] [--nice -15]

Each setting is a process that has loaded and warmed up the work: steps of training a codec of the default
or of the tiny size on two windows, or seconds that the tiny one decodes. They take turns, while as many
processes as `--busy` says count for ever. A turn's figure is work per second. "ours" is what importing this
package sets by itself; "loaded first" is that with torch imported before, as in a notebook. `--nice`, as
root below 0, puts settings and busy processes before all else on a shared machine (through their
autogroup). Printed is, for every number of busy processes, the median of each setting and of its ratio to
the best of the plain settings in the same round; OUT/shared_cpu.json gets all figures. Needs no network.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

PLAIN: dict[str, dict[str, str]] = {
    "default": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
OURS = "ours", "loaded first"
_WARM_UP = 3


def task_of(folder: Path, **model: object) -> Any:
    from scaling import synthetic_corpus

    from distill_ray.config.resolve import CorpusFacts, MachineFacts, resolve_vqvae
    from distill_ray.training.vqvae import VQTask
    from distill_ray.training.worker import LocalWorker

    corpus = synthetic_corpus(folder / "corpus", 0.1)
    facts = CorpusFacts(file_count=6, train_seconds=corpus.seconds("train"), sample_rate=44_100, channels=1)
    overrides: dict[str, object] = {"training.batch_size": 2, "training.window_seconds": 0.25}
    overrides |= {f"model.{name}": value for name, value in model.items()}
    config = resolve_vqvae(facts, overrides=overrides, machine=MachineFacts(accelerator=False)).config
    return VQTask(corpus, config, LocalWorker(folder / "run"))


def steps_of(task: Any) -> Callable[[], None]:
    steps = iter(range(10**9))
    return lambda: task.train_step(next(steps), 0.5)


def decoding(folder: Path) -> Callable[[], Any]:
    import torch

    model = task_of(folder, size="tiny", width=32).kept.eval()
    with torch.inference_mode():
        codes_BQT = model.encode(0.1 * torch.randn(1, 1, 44_100))
    return torch.inference_mode()(lambda: model.decode(codes_BQT))


WORK: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "codec": lambda folder: steps_of(task_of(folder)),
    "tiny": lambda folder: steps_of(task_of(folder, size="tiny", width=32, codebook_size=64)),
    "decode": decoding,
}


def serve(work: str, setting: str) -> None:
    """The process of one setting: for each line with seconds on stdin, a line with work per second."""
    if setting != "ours":  # the package finds it loaded, and its environment as it was given
        importlib.import_module("torch")
    from distill_ray import threads  # sets what "ours" starts with
    import torch  # isort: skip

    with tempfile.TemporaryDirectory() as folder:
        step = WORK[work](Path(folder))
        for _ in range(_WARM_UP):
            step()
        print("ready", flush=True)
        for line in sys.stdin:
            if setting == "loaded first":
                threads.fit_threads()
            done, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < float(line):
                step()
                done += 1
            print(done / spent, torch.get_num_threads(), flush=True)


@contextlib.contextmanager
def servers(work: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    ours = ("OMP_", "GOMP_", "KMP_", "MKL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    started = {
        name: subprocess.Popen(
            [sys.executable, __file__, "", f"--serve={work}:{name}"],
            env={**kept, **PLAIN.get(name, {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in (*PLAIN, *OURS)
    }
    try:
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def turns(processes: dict[str, subprocess.Popen[str]], rounds: int, seconds: float) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
            rates[name].append(float(process.stdout.readline().split()[0]))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", nargs="*", choices=list(WORK), default=list(WORK))
    parser.add_argument("--busy", nargs="*", type=int, default=[0, 1, 6])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve.split(":"))
        return
    if options.nice:
        if os.getpgrp() != os.getpid():
            os.setsid()  # a scheduling group of its own
        Path("/proc/self/autogroup").write_text(str(options.nice))
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
    for work in options.work:
        with servers(work) as processes:
            for process in processes.values():
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for count in options.busy:
                with busy(count):
                    rates = turns(processes, options.rounds, options.seconds)
                found[f"{work}, {count} busy"] = rates
                print(f"{work}, {count} busy: " + "; ".join(rows(rates)), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "shared_cpu.json").write_text(json.dumps(found, indent=1))


def rows(rates: dict[str, list[float]]) -> Iterator[str]:
    best = [max(each) for each in zip(*(rates[name] for name in PLAIN), strict=True)]
    for name, each in rates.items():
        ratio = statistics.median(one / most for one, most in zip(each, best, strict=True))
        yield f"{name} {statistics.median(each):.2f}/s ({ratio:.2f})"


if __name__ == "__main__":
    main()
