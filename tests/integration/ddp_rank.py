"""One rank of gloo groups, a process that test_ddp.py starts: for each line on stdin, the arguments of `main`
as JSON, it trains, saves what this rank ended with, and says so with a line on stdout.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.corpus import open_corpus
from distill_ray.events.records import VQEpochMetrics, to_record
from distill_ray.training import vqvae
from distill_ray.training.budget import Budget
from distill_ray.training.capture import Gradients
from distill_ray.training.loop import LoopSettings, restore, run_loop
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker, ProcessGroupWorker, StopFlag, Worker


class AskedAt(StopFlag):
    """A stop that only the last rank hears of, after `steps` steps: the start of the codebooks asks too."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps if dist.is_initialized() and dist.get_rank() == 1 else -1
        self.is_trained = False

    def requested(self) -> bool:  # asked before every step, and once more after each epoch
        self._left -= self.is_trained
        return self._left == 0


def main(
    rank: int,
    *,
    world_size: int,
    corpus: str,
    out: Path,
    stop_at: int,
    overrides: dict[str, object],
    as_on_gpu: bool = False,
    apart: bool = False,
) -> None:
    """as_on_gpu: gradients are averaged in one piece; there is no graph to capture here. apart: rank 1 begins
    with other weights, as rounding on other hardware would have it, and more.
    """
    with contextlib.ExitStack() as stack:
        if as_on_gpu:
            joined = lambda *given, **named: Gradients(*given, **{**named, "capture": True})  # noqa: E731
            stack.enter_context(mock.patch.object(vqvae, "Gradients", joined))
        if world_size > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world_size
            )
            stack.callback(dist.destroy_process_group)
        _train(rank, world_size, corpus, out, stop_at, overrides, apart=apart)


def _train(
    rank: int,
    world_size: int,
    corpus_uri: str,
    out: Path,
    stop_at: int,
    overrides: dict[str, object],
    *,
    apart: bool,
) -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    epochs: list[dict[str, object]] = []
    listener = lambda event: epochs.append(to_record(event)) if isinstance(event, VQEpochMetrics) else None  # noqa: E731
    worker: Worker
    stop = AskedAt(stop_at)
    if world_size > 1:
        worker = ProcessGroupWorker(out / "checkpoints", device=cpu, listener=listener, stop=stop)
    else:
        worker = LocalWorker(out / "checkpoints", device=cpu, listener=listener)
    corpus = open_corpus(corpus_uri)
    depths = tuple(overrides.pop("depths", ()))  # type: ignore[call-overload]
    facts = CorpusFacts(
        file_count=6, train_seconds=corpus.seconds("train"), sample_rate=corpus.sample_rate, channels=1
    )
    config = resolve_vqvae(facts, overrides={**overrides, "model.size": "tiny"}).config
    task = VQTask(corpus, config, worker, depths=depths)
    stop.is_trained = True
    if apart and rank == 1:
        for matrix in task.model.hidden_matrices():
            matrix.data.mul_(1.001)
    budget = Budget(steps_per_epoch=task.steps_per_epoch, epochs=config.training.epochs, max_minutes=None)
    settings = LoopSettings(patience=0, checkpoint_seconds=1e9)
    progress = run_loop(task, worker, budget, settings, restore(worker, task))
    completed = task.completed(progress)
    torch.save(
        {"model": task.model.state_dict(), "average": task.average.module.state_dict()}, out / f"{rank}.pt"
    )
    (out / f"{rank}.json").write_text(json.dumps({"epochs": epochs, "completed": to_record(completed)}))


def serve(rank: int) -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        main(rank, **{**asked, "out": Path(asked["out"])})
        print("done", flush=True)
