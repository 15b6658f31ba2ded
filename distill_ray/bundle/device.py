"""Which device a loaded model is to run on."""

from __future__ import annotations

import torch

from distill_ray.errors import UsageError


def choose_device(name: str) -> torch.device:
    """`name` is "auto" (a GPU where there is one), "cpu" or what torch calls a device, such as "cuda:1".

    Raises UsageError where this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:  # AssertionError: torch built without CUDA
        raise UsageError(
            f"there is no device {name!r} here; use cpu, or see `distill-ray doctor`"
        ) from problem
    return device
