"""An exponential moving average of a module's weights: what is validated and saved."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class WeightAverage(Generic[ModuleT]):
    """A copy of a module whose parameters follow it; buffers are copied as they are.

    The decay grows as (1 + n) / (10 + n) up to its limit (Tarvainen and Valpola 2017 as in TensorFlow's
    ExponentialMovingAverage), so that short runs are not held back by the random start.
    """

    def __init__(self, module: ModuleT, *, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._averaged: list[Tensor] = list(self.module.parameters())
        self._followed: list[Tensor] = list(module.parameters())
        self._buffers = list(zip(self.module.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the module after its step number `step` (from 0)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, self._followed, weight)
        for averaged, followed in self._buffers:
            averaged.copy_(followed)
