"""What a prior has learnt of each level: what it saves of the cost of the level's histogram.

Legend: Q RVQ levels, T code frames.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distill_ray.prior.histogram import level_histogram_nats


def level_gains(
    level_nats: Sequence[float], train: Sequence[Tensor], held_out: Sequence[Tensor], codebook_size: int
) -> tuple[float, ...]:
    """For each level the share of the histogram's cost of `held_out` ([Q, T] each) that a prior saves which
    needs `level_nats` for a code.

    0 where it costs as much, below 0 where it costs more. The histogram is that of `train`.
    """
    known_Q = level_histogram_nats(train, held_out, codebook_size).tolist()
    return tuple(1.0 - nats / known for nats, known in zip(level_nats, known_Q, strict=True))
