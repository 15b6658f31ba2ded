"""Kernels for NVIDIA GPUs, written in Triton, of what a codec step spends its time on besides products.

Each module here has the kernels of one part and the `torch.autograd.Function` that calls them: `convnext.py`,
`rvq.py`, `spectra.py`, `losses.py`. The plain modules beside this package (`blocks.py`, `quantizer.py`,
`encoder.py`, `decoder.py`, `losses.py`) are the reference: they run wherever these cannot, with the same
numbers within rounding, and ask `usable` which way to go. Only training turns kernels on: compiling them
takes longer than most sounds take to be coded. Nothing here imports Triton before it is needed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distill_ray.errors import first_line

_enabled = 0
_MOST_NUMBERS = 2**27  # kernels count elements, of which there may be eight times as many, in 32 bits


@contextmanager
def enabled() -> Iterator[None]:
    """Within it, kernels run where they can."""
    global _enabled
    _enabled += 1
    try:
        yield
    finally:
        _enabled -= 1


def usable(tensor: Tensor) -> bool:
    """Whether kernels are to take `tensor`."""
    return _enabled > 0 and tensor.numel() <= _MOST_NUMBERS and missing(tensor.device.type) == ""


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of matrix products with `tensor` here: that of autocast, or its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


@functools.cache
def missing(device_type: str) -> str:
    """Why there are no kernels on such devices, or ""; found out once, by running one."""
    if device_type != "cuda":
        return "no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.version.hip is not None or torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than NVIDIA's Ampere, or not NVIDIA's"
    try:
        from distill_ray.vqvae.kernels.probe import run_probe

        run_probe(torch.device(device_type))
    except Exception as error:  # whatever a compiler, a driver or a missing header may raise
        return f"a trial kernel failed: {first_line(error)}"
    return ""
