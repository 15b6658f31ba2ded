"""How well the codebooks are used, from counts of codes, when they have collapsed, and how far codes agree
under changes that nobody hears (`agreement.py` measures it); standard library only, so that events, display
and search can use it without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from distill_ray.config.health import HealthConfig

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


@dataclass(frozen=True, kw_only=True)
class CodeAgreement:
    """Shares of codes that stay the same, one a level, when held-out audio is shifted by ⅛, ¼ and ½ of a code
    frame, has its polarity flipped, and is made 3 dB louder or softer (the mean of both).

    Even use of codes says nothing of whether they can be predicted: codes that spell phases change with every
    shift, and no prior learns them from a small corpus.
    """

    shift_eighth: tuple[float, ...]
    shift_quarter: tuple[float, ...]
    shift_half: tuple[float, ...]
    polarity: tuple[float, ...]
    gain_3db: tuple[float, ...]


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


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """A level that has collapsed: its newest `value` of the measure, and for how many reports it was low."""

    level: int
    value: float
    reports: int
    measure: str
    floor: float

    @property
    def reason(self) -> str:
        """ "collapsed level 3: utilization 0.12 < 0.30 for 3 reports", with more digits if needed."""
        digits = next(
            (count for count in range(2, 17) if f"{self.value:.{count}f}" != f"{self.floor:.{count}f}"), 17
        )
        reports = "1 report" if self.reports == 1 else f"{self.reports} reports"
        return (
            f"collapsed level {self.level}: {self.measure} {self.value:.{digits}f} < {self.floor:.{digits}f} "
            f"for {reports}"
        )


@dataclass(frozen=True, kw_only=True)
class HealthRule:
    """When a codebook has collapsed: its level stays below the floor for `patience` reports in a row.

    measure: "utilization" or "entropy" of `LevelHealth`. warmup: so many first reports never count.
    A figure that is NaN, or a level that a report does not have, is not below the floor.
    """

    measure: str
    floor: float
    patience: int
    warmup: int

    @classmethod
    def of(cls, config: HealthConfig) -> HealthRule:
        """The rule of the [health] settings, whether or not they let it end a run."""
        return cls(measure=config.measure, floor=config.floor, patience=config.patience, warmup=config.warmup)

    def value(self, health: LevelHealth) -> float:
        """What is held against the floor."""
        return health.entropy if self.measure == "entropy" else health.utilization

    def is_low(self, health: LevelHealth) -> bool:
        """Whether a single figure is below the floor; exactly at the floor is healthy."""
        return self.value(health) < self.floor

    def judge(self, reports: Sequence[Sequence[LevelHealth]]) -> Collapse | None:
        """The lowest level that has collapsed by the newest of `reports`, which begin with the run's first.

        Pure: the same reports give the same verdict, in one go or after a resume.
        """
        counted = reports[self.warmup :]
        for level, health in enumerate(counted[-1] if counted else ()):
            low = self._low_in_a_row(counted, level)
            if low >= self.patience:
                return Collapse(
                    level=level, value=self.value(health), reports=low, measure=self.measure, floor=self.floor
                )
        return None

    def _low_in_a_row(self, counted: Sequence[Sequence[LevelHealth]], level: int) -> int:
        """How many of the newest reports in a row have the level below the floor."""
        for count, report in enumerate(reversed(counted)):
            if level >= len(report) or not self.is_low(report[level]):
                return count
        return len(counted)
