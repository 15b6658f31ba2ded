"""One trivial kernel, which shows that Triton compiles and runs on this machine."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _double(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(x_ptr + at, 2.0 * x, mask=at < n)


def run_probe(device: torch.device) -> None:
    """Raise whatever Triton raises where it does not work."""
    x = torch.ones(8, device=device)
    _double[(1,)](x, 8, BLOCK=16)
    assert bool((x == 2.0).all()), "a trial kernel gave wrong numbers"
