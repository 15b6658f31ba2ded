"""The block that encoder and decoder are stacked from, and how its matrices start.

Shapes: B batch, F frames, W width (channels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.vqvae import kernels

KERNEL = 7
"""Frames that the depthwise convolution of a block sees."""

REACH = KERNEL // 2
"""Frames by which one block widens the receptive field on each side."""


class ConvNeXtBlock(nn.Module):
    """A 1-d ConvNeXt block (Liu et al. 2022; in a vocoder: Siuzdak 2023, Vocos) on [B, F, W].

    Depthwise convolution along frames, LayerNorm over channels, a two-layer MLP, layer scale, dropout,
    residual. Frames are the middle axis, so that the MLP, which holds nearly all the arithmetic, is a
    plain matrix product.

    Args:
        width: channels.
        mlp_ratio: hidden width of the MLP over `width`.
        layer_scale: start of the learned factor on each channel of the branch.
        dropout: chance of dropping an element of the branch.
    """

    def __init__(self, width: int, *, mlp_ratio: int, layer_scale: float, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, padding=REACH, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, mlp_ratio * width)
        self.contract = nn.Linear(mlp_ratio * width, width)
        self.scale = nn.Parameter(torch.full((width,), layer_scale))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BFW: Tensor) -> Tensor:
        if kernels.usable(x_BFW) and not (self.training and self.dropout.p > 0.0):
            from distill_ray.vqvae.kernels.convnext import convnext

            return convnext(
                x_BFW,
                *(self.depthwise.weight, self.depthwise.bias, self.norm.weight, self.norm.bias),
                *(self.expand.weight, self.expand.bias, self.contract.weight, self.contract.bias),
                self.scale,
                eps=self.norm.eps,
            )
        mixed_BFW = self.depthwise(x_BFW.transpose(1, 2)).transpose(1, 2)
        hidden = functional.gelu(self.expand(self.norm(mixed_BFW)))
        out_BFW: Tensor = x_BFW + self.dropout(self.scale * self.contract(hidden))
        return out_BFW


def convnext_stack(width: int, count: int, *, total: int, mlp_ratio: int, dropout: float) -> nn.Sequential:
    """`count` blocks of a network that has `total` blocks; its depth sets the layer scale to 1 / total."""
    return nn.Sequential(
        *(
            ConvNeXtBlock(width, mlp_ratio=mlp_ratio, layer_scale=1 / total, dropout=dropout)
            for _ in range(count)
        )
    )


def init_linear(module: nn.Module) -> None:
    """For `Module.apply`: Gaussian matrices of standard deviation 0.02, zero biases, as Vocos starts."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
