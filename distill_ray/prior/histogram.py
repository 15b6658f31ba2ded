"""What codes cost without a prior: by how often each code of each level comes.

A prior that hardly beats this has learnt nothing of how codes follow each other; it generates noise.

Legend: Q RVQ levels, T code frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_GAIN = 0.05
"""A prior that saves less of a histogram's cost generates noise."""


def level_histogram_nats(train: Sequence[Tensor], held_out: Sequence[Tensor], codebook_size: int) -> Tensor:
    """Mean nats [Q] of each level's codes of `held_out`; for the rest see `histogram_nats`."""
    costs = []
    for known_N, new_N in zip(_levels(train), _levels(held_out), strict=True):
        counts_K = torch.bincount(known_N, minlength=codebook_size).double() + 0.5
        costs.append(-(counts_K / counts_K.sum()).log()[new_N].mean())
    return torch.stack(costs)


def histogram_nats(train: Sequence[Tensor], held_out: Sequence[Tensor], codebook_size: int) -> float:
    """Mean nats of the codes of `held_out` ([Q, T] each) by each level's histogram of `train`.

    Every code counts half a time more than it came (Krichevsky and Trofimov 1981), so that a new one has
    a finite cost.
    """
    return float(level_histogram_nats(train, held_out, codebook_size).mean())


def _levels(sequences: Sequence[Tensor]) -> Tensor:
    """All codes of each level, [Q, N]."""
    return torch.cat([codes_QT.long() for codes_QT in sequences], dim=1)
