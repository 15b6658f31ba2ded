"""Kernels for NVIDIA GPUs, written in Triton, of what a codec step spends its time on besides matrix products.

Each module here has the kernels of one part and the `torch.autograd.Function` that calls them: `convnext.py`,
`rvq.py`, `spectra.py`. The plain modules beside this package (`blocks.py`, `quantizer.py`, `spectral.py`,
`losses.py`) are the reference: they run wherever these cannot, with the same numbers within rounding, and
ask `usable` which way to go. Nothing here imports Triton before a tensor on a GPU asks for it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_disabled = 0
_MOST_NUMBERS = 2**27  # kernels count elements, of which there may be eight times as many, in 32 bits


@contextmanager
def disabled() -> Iterator[None]:
    """Within it the plain modules run."""
    global _disabled
    _disabled += 1
    try:
        yield
    finally:
        _disabled -= 1


def usable(tensor: Tensor) -> bool:
    """Whether kernels can take `tensor`: on a GPU, or anywhere under Triton's interpreter (for tests)."""
    if _disabled or tensor.numel() > _MOST_NUMBERS:
        return False
    return missing(tensor.device.type) == ""


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of matrix products with `tensor` here: that of autocast, or its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


@functools.cache
def missing(device_type: str) -> str:
    """Why there are no kernels on such devices, or ""; found out once, by running one."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device_type != "cuda" and not interpreted:
        return "no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreted:
        return ""
    if torch.version.hip is not None or torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than NVIDIA's Ampere, or not NVIDIA's"
    try:
        from distill_ray.vqvae.kernels.probe import run_probe

        run_probe(torch.device(device_type))
    except Exception as error:  # whatever a compiler, a driver or a missing header may raise
        return f"a trial kernel failed: {str(error).strip().splitlines()[0] if str(error) else type(error)}"
    return ""
