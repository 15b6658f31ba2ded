"""Waiting for a device, so that a host clock tells the truth."""

from __future__ import annotations

import torch


def wait(device: torch.device) -> None:
    """Until what was started on a GPU is done; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
