"""`Worker` on a rank of Ray Train: events through the mailbox, checkpoints through Ray's storage."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray.train
import ray.train.torch
import torch

from distill_ray.orchestrate.failure import LoopError
from distill_ray.orchestrate.mailbox import Outbox
from distill_ray.training.events import Event, PriorStepMetrics, VQStepMetrics, to_record
from distill_ray.training.worker import ProcessGroupWorker, Worker, WriteCheckpoint, newest_folder

Loop = Callable[[Worker], Event]


@dataclass(frozen=True, kw_only=True)
class RankTask:
    """What every rank gets from the driver.

    checkpoints: the run's folder of checkpoints. scratch: where checkpoints are filled before Ray takes them
    (the run's own disk has the room), None for the node's temporary folder. threads: torch's threads on a
    node, None for its cores; its ranks divide them.
    """

    loop: Loop
    checkpoints: Path
    mailbox: Any
    scratch: Path | None
    threads: int | None
    gpu_share: float


def run_rank(task: RankTask) -> dict[str, Any]:
    """Ray Train's training function: runs the loop and returns its last event as a record.

    Raises LoopError for every exception of the loop.
    """
    context = ray.train.get_context()
    threads = task.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, threads // context.get_local_world_size()))  # Ray has set OMP_NUM_THREADS=1
    if 0 < task.gpu_share < 1:
        torch.cuda.set_per_process_memory_fraction(task.gpu_share)
    outbox = Outbox(task.mailbox) if context.get_world_rank() == 0 else None
    try:
        return to_record(task.loop(RayWorker(task, outbox)))
    except Exception as error:
        raise LoopError.of(error) from None
    finally:
        if outbox is not None:
            outbox.close()


class RayWorker(ProcessGroupWorker):
    """A rank whose reports go to Ray Train; `outbox` is rank 0's."""

    def __init__(self, task: RankTask, outbox: Outbox | None) -> None:
        super().__init__(task.checkpoints, device=ray.train.torch.get_device())
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self._scratch = task.scratch
        self._outbox = outbox
        self._throttle = StepThrottle()

    def emit(self, event: Event) -> None:
        if self._outbox is not None and self._throttle.passes(event, time.monotonic()):
            self._outbox.post(to_record(event))

    def checkpoint(self, event: Event, write: WriteCheckpoint | None) -> None:
        checkpoint = None
        if write is not None and self.rank == 0:
            if self._scratch is not None:
                self._scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=self._scratch))
            try:
                write(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(
            to_record(event),
            checkpoint=checkpoint,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )
        self.emit(event)

    def restore(self) -> Path | None:
        """What Ray Train kept before it restarted this group, else the checkpoint that the run began with."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return newest_folder(self._folder / "latest")
        if isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem):
            return Path(checkpoint.path)
        return Path(checkpoint.to_directory(tempfile.mkdtemp(prefix="checkpoint-", dir=self._scratch)))

    def stop_requested(self) -> bool:
        return self._outbox is not None and self._outbox.stop_requested()


class StepThrottle:
    """Lets the events of single steps pass at most every `apart_s` seconds, and all others always."""

    def __init__(self, apart_s: float = 0.2) -> None:
        self._apart_s = apart_s
        self._last = -math.inf

    def passes(self, event: Event, now: float) -> bool:
        if not isinstance(event, VQStepMetrics | PriorStepMetrics):
            return True
        if now - self._last < self._apart_s:
            return False
        self._last = now
        return True
