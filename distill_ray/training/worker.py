"""The seam between a training loop and what runs it: one process, a process group, or Ray Train.

A loop is written once against `Worker`. `LocalWorker` runs it in this process; `ProcessGroupWorker` adds
torch.distributed; `runtime/ray_worker.py` adds Ray's devices and reporting to the latter. Checkpoints are
kept by `storage/checkpoints.py` in all cases.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill_ray.errors import CheckpointError
from distill_ray.events.records import Event
from distill_ray.events.records import Listener as Listener
from distill_ray.storage.atomic import WriteCheckpoint
from distill_ray.storage.checkpoints import Checkpoints

# torch 2.13 renamed it, and warns of the old name.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)


class Worker(Protocol):
    """One rank of a run. Collective calls are marked so: every rank makes them in the same order."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over ranks (collective)."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place (collective)."""
        ...

    def average(self, tensor: Tensor) -> Tensor:
        """Mean over ranks, in place (collective)."""
        ...

    def all_gather(self, tensor: Tensor) -> Tensor:
        """[world_size * n, ...] from each rank's [n, ...], in rank order (collective)."""
        ...

    def emit(self, event: Event) -> None:
        """Send an event on; only rank 0's are delivered. Never blocks a step noticeably."""
        ...

    def checkpoint(self, event: Event, write: WriteCheckpoint | None, *, last: bool = False) -> None:
        """Send an event and, where `write` is given, keep the folder that it fills (collective).

        `write` is called on rank 0 with an empty folder. The newest complete one is what `restore` returns.
        `last`: the loop ends with this one.
        """
        ...

    def restore(self) -> Path | None:
        """The folder of the newest checkpoint, or None at the start of a run."""
        ...

    def stop_requested(self) -> bool:
        """Whether this rank was asked to stop; the loop agrees on it with the others."""
        ...

    def steps_said(self) -> int:
        """How many steps this rank was told to make in all; 0 as long as nobody has said. The loop agrees."""
        ...


class StopFlag:
    """Set by a signal handler, read by the loop."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        self._event.set()

    def requested(self) -> bool:
        return self._event.is_set()

    def steps(self) -> int:
        """How many steps are to be made in all, where somebody else says that; 0 as long as nobody has."""
        return 0


class LocalWorker:
    """A run in this process; `checkpoints` keeps its checkpoints, or is the folder to keep them in."""

    def __init__(
        self,
        checkpoints: Path | Checkpoints,
        *,
        device: torch.device | None = None,
        listener: Listener | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        self.rank = 0
        self.world_size = 1
        self.device = device or default_device()
        self.checkpoints = Checkpoints(checkpoints) if isinstance(checkpoints, Path) else checkpoints
        self._listener = listener
        self._stop = stop or StopFlag()

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def average(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def emit(self, event: Event) -> None:
        self._tell(*self.checkpoints.notices(), event)

    def checkpoint(self, event: Event, write: WriteCheckpoint | None, *, last: bool = False) -> None:
        if write is not None:
            self.checkpoints.keep(write, last=last)
        self.emit(event)

    def restore(self) -> Path | None:
        return self.checkpoints.newest()

    def stop_requested(self) -> bool:
        return self._stop.requested()

    def steps_said(self) -> int:
        return self._stop.steps()

    def finish(self) -> None:
        """The loop has ended. Raises CheckpointError where its last checkpoint was not kept here."""
        self.checkpoints.finish()
        with contextlib.suppress(CheckpointError):  # it is kept here; who runs the loop knows what is enough
            self.checkpoints.flush()
        self._tell(*self.checkpoints.notices())

    def _tell(self, *events: Event) -> None:
        if self._listener is not None:
            for event in events:
                self._listener(event)


class ProcessGroupWorker(LocalWorker):
    """A rank of an initialised torch.distributed group; checkpoints and events are rank 0's."""

    def __init__(
        self,
        checkpoints: Path | Checkpoints,
        *,
        device: torch.device,
        listener: Listener | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        super().__init__(checkpoints, device=device, listener=listener, stop=stop)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        if self.world_size == 1:
            return module  # nothing to average, and the same numbers as in one process
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
        devices = [self.device.index] if self.device.type == "cuda" else None
        # From here on buffers are constants or all-reduced statistics, the same on every rank.
        return DistributedDataParallel(module, device_ids=devices, **{_SYNC_BUFFERS: False})  # type: ignore[arg-type]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average(self, tensor: Tensor) -> Tensor:
        if tensor.is_cuda and self.world_size > 1:  # NCCL divides on the way, which saves a pass
            dist.all_reduce(tensor, op=dist.ReduceOp.AVG)
            return tensor
        return self.all_reduce(tensor).div_(self.world_size)

    def all_gather(self, tensor: Tensor) -> Tensor:
        if self.world_size == 1:
            return tensor
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    def emit(self, event: Event) -> None:
        if self.rank == 0:
            super().emit(event)

    def checkpoint(self, event: Event, write: WriteCheckpoint | None, *, last: bool = False) -> None:
        if self.rank == 0:
            super().checkpoint(event, write, last=last)

    def finish(self) -> None:
        if self.rank == 0:
            super().finish()


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")
