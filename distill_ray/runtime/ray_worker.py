"""`Worker` on a rank of Ray Train: events through the mailbox, `storage/checkpoints.py` as without Ray.

Ray Train's own checkpoints are not used: it ends a run whose storage is out for a moment, and would need
another form of checkpoint beside that of a run in one process.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.util import get_current_placement_group

from distill_ray.errors import CheckpointError
from distill_ray.events.records import Event, PriorStepMetrics, VQStepMetrics, to_record
from distill_ray.runtime.failure import LoopError
from distill_ray.runtime.mailbox import RANK_0, Outbox, RemoteStop
from distill_ray.storage.checkpoints import GIVE_SHARED, node_folder
from distill_ray.storage.uploaded import open_checkpoints
from distill_ray.threads import free_threads, usable_cores
from distill_ray.training.worker import ProcessGroupWorker, Worker

Loop = Callable[[Worker], Event]


@dataclass(frozen=True, kw_only=True)
class RankTask:
    """What every rank gets from the driver.

    checkpoints: the run's folder of checkpoints on the driver's node, which all nodes share unless there is
    a `uri` for them. threads: torch's threads on a node, None for its cores; its ranks divide them.
    """

    loop: Loop
    checkpoints: Path
    uri: str | None
    mailbox: Any
    threads: int | None
    gpu_share: float


def run_rank(task: RankTask) -> dict[str, Any]:
    """Ray Train's training function: runs the loop and returns its last event as a record ("event"), with
    the name of its newest checkpoint ("checkpoint") and where that was written ("host").

    Raises LoopError for every exception of the loop.
    """
    context = ray.train.get_context()
    threads = max(1, (task.threads or usable_cores()) // context.get_local_world_size())
    torch.set_num_threads(free_threads(threads))  # Ray has set OMP_NUM_THREADS=1
    if 0 < task.gpu_share < 1:
        torch.cuda.set_per_process_memory_fraction(task.gpu_share)
    outbox = None
    if context.get_world_rank() == 0:
        task.mailbox.hello.remote(RANK_0, ray.get_runtime_context().current_actor)
        task.mailbox.hold.remote(RANK_0, get_current_placement_group())
        outbox = Outbox(task.mailbox, RANK_0)
    worker = RayWorker(task, outbox)
    try:
        final = to_record(task.loop(worker))
        worker.finish()
        return {"event": final, "checkpoint": worker.checkpoints.newest_name(), "host": socket.gethostname()}
    except Exception as error:
        raise LoopError.of(error) from None
    finally:
        worker.checkpoints.close()
        if outbox is not None:
            outbox.close()


class RayWorker(ProcessGroupWorker):
    """A rank of Ray Train; `outbox` is rank 0's, which alone writes `checkpoints`."""

    def __init__(self, task: RankTask, outbox: Outbox | None) -> None:
        folder = task.checkpoints
        if not folder.is_dir():  # another node than the driver's
            folder = node_folder(folder, task.uri)
        super().__init__(
            open_checkpoints(folder, task.uri),
            device=ray.train.torch.get_device(),
            listener=None if outbox is None else lambda event: outbox.post(to_record(event)),
            stop=None if outbox is None else RemoteStop(outbox),
        )
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self._throttle = StepThrottle()

    def emit(self, event: Event) -> None:
        if self._throttle.passes(event, time.monotonic()):
            super().emit(event)

    def restore(self) -> Path | None:
        """The newest checkpoint of the run, the same on every rank (collective).

        Raises CheckpointError where this rank cannot have what rank 0 has.
        """
        name = [""]
        if self.rank == 0:
            self.checkpoints.settle()
            if self.world_size > ray.train.get_context().get_local_world_size():
                self.checkpoints.flush()  # the other nodes fetch it from there
            name = [self.checkpoints.newest_name()]
        if self.world_size > 1:
            dist.broadcast_object_list(name, src=0)
        if self.checkpoints.newest_name() != name[0]:
            self.checkpoints.settle()
        if self.checkpoints.newest_name() != name[0]:
            raise CheckpointError(
                f"the node {socket.gethostname()} does not see the run's checkpoint {name[0]} in "
                f"{self.checkpoints.folder}; {GIVE_SHARED}"
            )
        return self.checkpoints.newest()


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
