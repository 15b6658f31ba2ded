"""How well the codebooks are used, from counts of codes; standard library only, so that events, display
and stopping rules can use it without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

GOOD_UTILIZATION = 0.5
"""Green at and above this share of codes used."""
FAIR_UTILIZATION = 0.3
"""Yellow at and above this share, red and a warning below it."""


@dataclass(frozen=True, kw_only=True)
class LevelHealth:
    """How well one RVQ level uses its codebook.

    utilization: share of codes used; perplexity: exp of the entropy of use; dead_codes: codes never used;
    entropy: H / log K in [0, 1], comparable between codebook sizes.
    """

    utilization: float
    perplexity: float
    dead_codes: int
    entropy: float

    @property
    def color(self) -> str:
        """ "green", "yellow" or "red" by utilization."""
        if self.utilization >= GOOD_UTILIZATION:
            return "green"
        return "yellow" if self.utilization >= FAIR_UTILIZATION else "red"


class CountTable(Protocol):
    """A tensor or array of counts."""

    def tolist(self) -> list[list[float]]: ...


def codebook_health(counts_QK: Sequence[Sequence[float]] | CountTable) -> tuple[LevelHealth, ...]:
    """Health of each level from how often each of its codes was used, summed over all ranks.

    A level that counted nothing has utilization, perplexity and entropy 0.
    """
    rows = counts_QK if isinstance(counts_QK, Sequence) else counts_QK.tolist()
    return tuple(_level_health(row) for row in rows)


def _level_health(counts_K: Sequence[float]) -> LevelHealth:
    size, total = len(counts_K), math.fsum(counts_K)
    live = [count for count in counts_K if count > 0]
    nats = math.fsum(count / total * math.log(total / count) for count in live)
    return LevelHealth(
        utilization=len(live) / size,
        perplexity=math.exp(nats) if live else 0.0,
        dead_codes=size - len(live),
        entropy=nats / math.log(size) if size > 1 else 0.0,
    )


def utilization_warnings(health: Sequence[LevelHealth]) -> tuple[str, ...]:
    """One sentence for each level that uses less than `FAIR_UTILIZATION` of its codes."""
    return tuple(
        f"RVQ level {level} uses {item.utilization:.0%} of its codes ({item.dead_codes} dead): "
        "use a smaller --codebook-size or fewer --rvq-levels, or train longer or on more audio"
        for level, item in enumerate(health)
        if item.utilization < FAIR_UTILIZATION
    )
