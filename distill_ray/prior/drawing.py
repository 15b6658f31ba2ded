"""One code from each distribution, by a uniform number of its row.

Every code is drawn by inverting its distribution at one uniform number. Row i of a batch has its own stream
of uniform numbers, seeded by (seed, i).

Legend: B batch, K codebook size, L codes in a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_ray.config.generation import SamplingConfig

LEAST_TEMPERATURE = 1e-30
"""float32 has no use for a smaller divisor; greedy long before."""


def drawn_seed(generator: torch.Generator | None) -> int:
    """One number of `generator`, which seeds all rows; 0 without one."""
    if generator is None:
        return 0
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def row_streams(seed: int, rows: int) -> list[torch.Generator]:
    """A stream of random numbers for each row, on the CPU."""
    return [torch.Generator().manual_seed(row_seed(seed, row)) for row in range(rows)]


def row_seed(seed: int, row: int) -> int:
    """A 63-bit mix of both (SplitMix64's finaliser), so that neighbouring rows share nothing."""
    mask = 2**64 - 1
    z = (seed + (row + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1


def draw(logits_BLK: Tensor, noise_BL: Tensor, sampling: SamplingConfig) -> Tensor:
    """codes_BL int64: the code at which each cumulative distribution passes its uniform number."""
    if sampling.temperature == 0.0:
        return logits_BLK.argmax(dim=-1)
    # From the likeliest code down, so that no quotient overflows upward: as temperature falls, the rest goes
    # to -inf and the draw to the likeliest code.
    lags_BLK = logits_BLK.float() - logits_BLK.float().amax(dim=-1, keepdim=True)
    probs_BLK = torch.softmax(lags_BLK / max(sampling.temperature, LEAST_TEMPERATURE), dim=-1)
    size = probs_BLK.shape[-1]
    top_k = sampling.top_k if sampling.top_k else size
    if top_k >= size and sampling.top_p >= 1.0:
        return _invert(probs_BLK, noise_BL)
    sorted_BLK, order_BLK = probs_BLK.sort(dim=-1, descending=True, stable=True)
    if sampling.top_p < 1.0:
        before_BLK = sorted_BLK.cumsum(dim=-1) - sorted_BLK
        beyond_BLK = before_BLK >= sampling.top_p
        beyond_BLK[..., 0] = False  # the likeliest code stays, also where float32 makes a tiny top_p zero
        sorted_BLK = sorted_BLK.masked_fill(beyond_BLK, 0.0)
    place_BL = _invert(sorted_BLK[..., :top_k], noise_BL)
    return order_BLK.gather(-1, place_BL[..., None])[..., 0]


def _invert(probs_BLK: Tensor, noise_BL: Tensor) -> Tensor:
    """Inverse of the cumulative sum of unnormalised probabilities; never an entry of probability 0."""
    cumulative_BLK = probs_BLK.cumsum(dim=-1)
    total_BL1 = cumulative_BLK[..., -1:]
    # Rounding may lift the product to the total itself, past every entry.
    below_total = torch.nextafter(total_BL1, torch.zeros_like(total_BL1))
    point_BL1 = torch.minimum(noise_BL[..., None] * total_BL1, below_total)
    return (cumulative_BLK <= point_BL1).sum(dim=-1)
