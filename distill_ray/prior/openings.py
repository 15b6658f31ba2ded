"""Moments of recordings after which generated sounds begin.

A prior has little to learn what sounds begin with in the middle of things: one token of each window. Drawn
from that, sounds begin, and stay for seconds, where the model is surest, and most of what a corpus holds is
never heard. So a prior keeps codes of moments spread evenly over its training recordings, and a sound goes on
from one of them, which is not heard itself (docs/decisions/0029-flow-and-openings.md).

Shapes: N openings, B sounds, Q RVQ levels, T code frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

OPENING_FRAMES = 8
"""As good by the judge as 16 or 43, and better than 4."""
_GOLDEN = 0.6180339887498949


def openings(sequences: Sequence[Tensor], count: int) -> Tensor:
    """int32 [N, Q, T] of `count` places spread evenly over recordings' codes [Q, frames]; of recordings
    shorter than an opening only where there are no others, from the beginning again and again.
    """
    long = [codes_QT for codes_QT in sequences if codes_QT.shape[1] >= OPENING_FRAMES]
    if not long:
        long = [codes_QT.repeat(1, -(-OPENING_FRAMES // codes_QT.shape[1])) for codes_QT in sequences]
    ends_R = np.cumsum([codes_QT.shape[1] - OPENING_FRAMES + 1 for codes_QT in long])
    places_N = (np.arange(count) * ends_R[-1]) // max(1, count)
    taken = []
    for place in places_N.tolist():
        row = int(np.searchsorted(ends_R, place, side="right"))
        start = place - (int(ends_R[row - 1]) if row else 0)
        taken.append(long[row][:, start : start + OPENING_FRAMES])
    return torch.stack(taken).to(torch.int32)


def spread(count: int, rows: int, generator: torch.Generator) -> Tensor:
    """int64 [B]: which of `count` openings each of so many rows takes.

    From a random one on by the golden ratio of their number: however many rows there are, they are spread
    evenly over the recordings, and the first of many are those of few.
    """
    first = torch.rand(1, generator=generator, dtype=torch.float64)
    place_B = (first + _GOLDEN * torch.arange(rows, dtype=torch.float64)) % 1.0
    return (place_B * count).long()
