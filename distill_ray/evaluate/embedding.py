"""A random convolutional network of the mel spectrogram: features that nobody designed.

Its weights are drawn from a fixed seed and never trained. Averages of such activations over time tell
textures apart (Ustyuzhaninov et al. 2016, "Texture Synthesis Using Shallow Convolutional Networks with
Random Filters"), and a change that keeps all designed statistics still moves them.

Legend: B windows, M mel bands, S frames, C channels, D features.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

SEED = 20261130
_CHANNELS = (32, 64, 96)
_KERNEL = 5


def embedding(log_mel_BMS: Tensor) -> Tensor:
    """Mean and standard deviation over time and frequency of each channel of three layers, [B, D]."""
    seen_BCMS = ((log_mel_BMS + 90) / 45 - 1)[:, None]
    out = []
    for weight in _weights(str(log_mel_BMS.device)):
        seen_BCMS = functional.relu(functional.conv2d(seen_BCMS, weight, stride=2, padding=_KERNEL // 2))
        out += [seen_BCMS.mean((2, 3)), seen_BCMS.mean(2).std(2), seen_BCMS.mean(3).std(2)]
    return torch.cat(out, dim=1)


@functools.lru_cache(maxsize=4)
def _weights(device: str) -> tuple[Tensor, ...]:
    """He-scaled normal weights without a mean over the kernel: they answer to edges, not to level."""
    generator = torch.Generator().manual_seed(SEED)
    weights, before = [], 1
    for channels in _CHANNELS:
        weight = torch.randn(channels, before, _KERNEL, _KERNEL, generator=generator)
        weight = weight - weight.mean((2, 3), keepdim=True)
        weights.append((weight * (2 / (before * _KERNEL**2)) ** 0.5).to(device))
        before = channels
    return tuple(weights)
