"""The device and worker of a benchmark's process, and waiting, so that a host clock tells the truth."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist

from distill_ray.training.worker import LocalWorker, ProcessGroupWorker, Worker


def begin() -> torch.device:
    """This process's device; under torchrun it joins the group of all ranks."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if gpu else "gloo")
    return device


def worker_in(folder: Path, device: torch.device) -> Worker:
    """A worker of the group that `begin` joined, or of this process alone."""
    kind = ProcessGroupWorker if dist.is_initialized() else LocalWorker
    return kind(folder, device=device, listener=lambda event: None)


def wait(device: torch.device) -> None:
    """Until what was started on a GPU is done; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
