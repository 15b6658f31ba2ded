"""Whether a prior's training takes the kernels of `training_kernels.py`: within `enabled`, on NVIDIA's GPUs,
in half precision. Nothing here imports Triton before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_enabled = 0
_MOST_NUMBERS = 2**28  # kernels count elements, of which a layer has six times as many, in 32 bits


@contextmanager
def enabled(wanted: bool = True) -> Iterator[None]:
    """Within it, kernels run where they can; nothing changes where they are not `wanted`."""
    global _enabled
    _enabled += wanted
    try:
        yield
    finally:
        _enabled -= wanted


def usable(tensor: Tensor) -> bool:
    """Whether kernels are to take `tensor`, whose gradient is wanted."""
    return (
        _enabled > 0
        and tensor.is_cuda
        and torch.is_grad_enabled()
        and product_dtype(tensor) in (torch.bfloat16, torch.float16)
        and tensor.numel() < _MOST_NUMBERS
    )


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of matrix products with `tensor` here: that of autocast, or its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
