"""A small real codec run as a process, to be broken: `python codec_run.py RUN_DIR CORPUS WORKERS EPOCHS`.

Its steps take at least a tenth of a second, so that there is time to break it on any machine.

WORKERS is what --num-workers takes; RAY_ADDRESS names the cluster, and without it Ray is private. Every event
goes to stdout as a line {"t": seconds since the epoch, "event": …}; so does a line {"pids": […]} of the ranks
each time that they begin, and at the end {"final": …, "checkpoint": …} or {"error": …}.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

import torch

from distill_ray.cli.options import worker_plan
from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import DistillError
from distill_ray.events.records import Event, Notice, to_record
from distill_ray.runtime.launch import launch
from distill_ray.training import vqvae
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import Worker

RATE = 8_000
PIDS = "ranks "
STEP_S = 0.1


def config(epochs: int) -> VQTrainConfig:
    """The smallest codec; 4 windows a step, a checkpoint at most every second and a half."""
    facts = CorpusFacts(file_count=6, train_seconds=9.0, sample_rate=RATE, channels=1)
    settings: dict[str, object] = {
        "model.width": 16,
        "model.encoder_blocks": 1,
        "model.decoder_blocks": 1,
        "model.latent_dim": 16,
        "model.n_fft": 256,
        "model.hop": 64,
        "model.codebook_size": 16,
        "model.num_quantizers": 2,
        "training.window_seconds": 0.25,
        "training.min_epoch_steps": 15,
        "training.warmup_steps": 4,
        "training.val_seconds": 2.0,
        "training.batch_size": 4,
        "training.epochs": epochs,
        "training.checkpoint_seconds": 1.5,
    }
    return resolve_vqvae(facts, overrides=settings).config


class PacedTask(VQTask):
    """A codec in training that takes its time."""

    def train_step(self, step: int, fraction: float) -> None:
        began = time.monotonic()
        super().train_step(step, fraction)
        time.sleep(max(0.0, began + STEP_S - time.monotonic()))


class Loop:
    """`train_vqvae`, after saying which processes and hosts its ranks are."""

    def __init__(self, corpus: str, settings: VQTrainConfig) -> None:
        self.corpus, self.settings = corpus, settings

    def __call__(self, worker: Worker) -> Event:
        pids = worker.all_gather(torch.tensor([os.getpid()])).tolist()
        worker.emit(Notice(level="info", message=PIDS + json.dumps([socket.gethostname(), *pids])))
        vqvae.VQTask = PacedTask  # type: ignore[misc]
        return vqvae.train_vqvae(self.corpus, self.settings, worker)


def main() -> int:
    run_dir, corpus, workers, epochs = sys.argv[1:]

    def say(**values: object) -> None:
        print(json.dumps(values), flush=True)

    def listener(event: Event) -> None:
        if isinstance(event, Notice) and event.message.startswith(PIDS):
            _, *pids = json.loads(event.message.removeprefix(PIDS))
            say(t=time.time(), pids=pids)
        else:
            say(t=time.time(), event=to_record(event))

    try:
        result = launch(
            Loop(corpus, config(int(epochs))),
            run_dir=Path(run_dir),
            plan=worker_plan(workers, 0, None),
            listener=listener,
        )
    except DistillError as error:
        say(error=type(error).__name__, message=str(error))
        return error.exit_code
    say(final=to_record(result.final), checkpoint=str(result.checkpoint))
    return 0


if __name__ == "__main__":
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    sys.exit(main())
