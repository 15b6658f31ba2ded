"""How well the codebooks are used, from counts of codes, when they have collapsed, and how far codes agree
under changes that nobody hears (`agreement.py` measures it); standard library only, so that events, display
and search can use it without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    entropy: H / log K in [0, 1], comparable between codebook sizes; kept: share of codes that stay when
    held-out audio is shifted by a quarter of a code frame; gain: share of what the level's histogram costs
    that a prior saves on held-out codes. The last two are None where they were not measured.
    """

    utilization: float
    perplexity: float
    dead_codes: int
    entropy: float
    kept: float | None = None
    gain: float | None = None

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


def with_kept(health: Sequence[LevelHealth], kept: Sequence[float]) -> tuple[LevelHealth, ...]:
    """`health` with each level's share of kept codes; `kept` is empty where it was not measured."""
    if not kept:
        return tuple(health)
    return tuple(replace(level, kept=share) for level, share in zip(health, kept, strict=True))


def with_gains(health: Sequence[LevelHealth], gains: Sequence[float]) -> tuple[LevelHealth, ...]:
    """`health` with what a prior saves of each level's histogram."""
    return tuple(replace(level, gain=gain) for level, gain in zip(health, gains, strict=True))


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
    """One sentence on the levels that use less than `FAIR_UTILIZATION` of their codes; none without any."""
    low = {level: item for level, item in enumerate(health) if item.utilization < FAIR_UTILIZATION}
    if not low:
        return ()
    levels, shares = list(map(str, low)), [f"{item.utilization:.0%}" for item in low.values()]
    dead = ", ".join(str(item.dead_codes) for item in low.values())
    advice = "use a smaller --codebook-size or fewer --rvq-levels, or train longer or on more audio"
    if len(low) == 1:
        return (f"RVQ level {levels[0]} uses {shares[0]} of its codes ({dead} dead): {advice}",)
    which = f"{', '.join(levels[:-1])} and {levels[-1]}"
    return (f"RVQ levels {which} use {', '.join(shares)} of their codes ({dead} dead): {advice}",)


KEPT, GAIN = "codes kept at ¼ frame", "prior's gain"
"""What reasons call the measures of `LevelHealth.kept` and `.gain`."""


@dataclass(frozen=True, kw_only=True)
class Low:
    """A figure below its floor."""

    measure: str
    value: float
    floor: float

    @property
    def words(self) -> str:
        """ "utilization 0.12 < 0.30", with more digits where two do not tell them apart."""
        digits = next(
            (count for count in range(2, 17) if f"{self.value:.{count}f}" != f"{self.floor:.{count}f}"), 17
        )
        return f"{self.measure} {self.value:.{digits}f} < {self.floor:.{digits}f}"


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
        low = Low(measure=self.measure, value=self.value, floor=self.floor)
        reports = "1 report" if self.reports == 1 else f"{self.reports} reports"
        return f"collapsed level {self.level}: {low.words} for {reports}"


@dataclass(frozen=True, kw_only=True)
class EpochHealth:
    """Its levels; `measured`: whether the epoch was long enough to be a report for the rule."""

    levels: tuple[LevelHealth, ...]
    measured: bool = True


def reports(epochs: Iterable[EpochHealth]) -> list[tuple[LevelHealth, ...]]:
    """What `HealthRule.judge` counts."""
    return [epoch.levels for epoch in epochs if epoch.measured]


@dataclass(frozen=True, kw_only=True)
class HealthRule:
    """When a codebook has collapsed: one of its figures stays below its floor for `patience` reports.

    measure: "utilization" or "entropy" of `LevelHealth`, held against `floor`; `kept_floor` and `gain_floor`
    are those of its `kept` and `gain`, 0 for none. warmup: so many first reports never count.
    A figure that is NaN or was not measured, or a level that a report does not have, is not below the floor.
    """

    measure: str
    floor: float
    patience: int
    warmup: int
    kept_floor: float = 0.0
    gain_floor: float = 0.0

    @classmethod
    def of(cls, config: HealthConfig) -> HealthRule:
        """The rule of the [health] settings, whether or not they let it end a run."""
        return cls(
            measure=config.measure,
            floor=config.floor,
            patience=config.patience,
            warmup=config.warmup,
            kept_floor=config.kept_floor,
            gain_floor=config.gain_floor,
        )

    def low(self, health: LevelHealth) -> Low | None:
        """The first figure of a level that is below its floor, None for a healthy level; exactly at the floor
        is healthy.
        """
        lows = (self._low(measure, health) for measure in self._measures)
        return next((low for low in lows if low is not None), None)

    def low_gain(self, gain: float) -> Low | None:
        """Whether a prior saves too little of a level, as `low` would say."""
        return Low(measure=GAIN, value=gain, floor=self.gain_floor) if gain < self.gain_floor else None

    def judge(self, reports: Sequence[Sequence[LevelHealth]]) -> Collapse | None:
        """The lowest level that has collapsed by the newest of `reports`, which begin with the run's first.

        Pure: the same reports give the same verdict, in one go or after a resume.
        """
        counted = reports[self.warmup :]
        for level, health in enumerate(counted[-1] if counted else ()):
            for measure in self._measures:
                low, in_a_row = self._low(measure, health), self._low_in_a_row(counted, level, measure)
                if low is not None and in_a_row >= self.patience:
                    return Collapse(
                        level=level, value=low.value, reports=in_a_row, measure=measure, floor=low.floor
                    )
        return None

    @property
    def _measures(self) -> tuple[str, ...]:
        return (self.measure, KEPT, GAIN)

    def _low(self, measure: str, health: LevelHealth) -> Low | None:
        value, floor = {
            "utilization": (health.utilization, self.floor),
            "entropy": (health.entropy, self.floor),
            KEPT: (health.kept, self.kept_floor),
            GAIN: (health.gain, self.gain_floor),
        }[measure]
        return None if value is None or not value < floor else Low(measure=measure, value=value, floor=floor)

    def _low_in_a_row(self, counted: Sequence[Sequence[LevelHealth]], level: int, measure: str) -> int:
        """How many of the newest reports in a row have `measure` of the level below its floor."""
        for count, report in enumerate(reversed(counted)):
            if level >= len(report) or self._low(measure, report[level]) is None:
                return count
        return len(counted)
