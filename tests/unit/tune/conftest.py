"""Made-up searches: a world says how a codec would turn out, and `run_search` goes through all rounds."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import DepthScore
from distill_ray.tune.space import final_round, first_round, shallower_round
from distill_ray.tune.trial import TrialRecord, TrialSpec
from distill_ray.vqvae.health import HealthRule, LevelHealth

RULE = HealthRule(measure="utilization", floor=0.3, patience=3, warmup=2)
FRAME_RATE = 86.1328125
MakeRecord = Callable[..., TrialRecord]


def level(utilization: float) -> LevelHealth:
    return LevelHealth(utilization=utilization, perplexity=9.5, dead_codes=3, entropy=utilization)


def make_record(
    codebook_size: int,
    losses: Mapping[int, float],
    *,
    state: str = "completed",
    health: Sequence[float] | None = None,
    round: str = "search",  # noqa: A002 - the field's name
    **more: object,
) -> TrialRecord:
    """A trial with these held-out losses by depth; `health` is each level's utilization."""
    depths = tuple(sorted(losses))
    words = ["final"] if round == "final" else []
    spec = TrialSpec(
        id="-".join([*words, f"k{codebook_size}", f"q{depths[-1]}"]),
        round=round,
        codebook_size=codebook_size,
        rvq_levels=depths[-1],
        depths=depths,
    )
    return TrialRecord(
        spec=spec,
        state=state,
        frame_rate=FRAME_RATE,
        depth_scores=tuple(DepthScore(levels=depth, val_loss=losses[depth], mel=1.0) for depth in depths),
        codebook_health=tuple(level(value) for value in (health or [0.9] * depths[-1])),
        **more,  # type: ignore[arg-type]
    )


@dataclass
class World:
    """How codecs turn out, drawn at random: losses coarse enough for ties, levels that collapse, crashes.

    `penalty` is what a codec cut to fewer levels loses against one that was trained at that depth.
    """

    seed: int
    penalty: float = 0.0
    crashes: float = 0.0
    prunes: float = 0.0
    collapses: float = 0.4
    ran: list[str] = field(default_factory=list)

    def drawn(self, *about: object) -> float:
        return random.Random(repr((self.seed, *about))).random()

    def train(self, spec: TrialSpec) -> TrialRecord:
        assert spec.id not in self.ran, "a trial that has run came again"
        self.ran.append(spec.id)
        about = (spec.codebook_size, sorted(spec.overrides.items()))
        weak = int(self.drawn("weak", *about) * 16) if self.drawn("dies", *about) < self.collapses else 99
        scores = []
        for depth in spec.depths:
            loss = float(round(20 - depth - spec.codebook_size**0.25 + 6 * self.drawn("loss", depth, *about)))
            loss += self.penalty * (depth < spec.rvq_levels) * self.drawn("cut", depth, *about)
            scores.append(DepthScore(levels=depth, val_loss=loss, mel=loss / 10))
        end = self.drawn("end", spec.id)
        state = "completed"
        if weak < spec.rvq_levels:
            state = "collapsed"
        elif end < self.crashes:
            state, scores = "failed", []
        elif end < self.crashes + self.prunes:
            state = "pruned"
        return TrialRecord(
            spec=spec,
            state=state,
            frame_rate=FRAME_RATE,
            depth_scores=tuple(scores),
            codebook_health=tuple(level(0.1 if at == weak else 0.8) for at in range(spec.rvq_levels)),
            collapsed_level=weak if state == "collapsed" else None,
        )


def run_search(world: World, sweep: SweepConfig, seed: int = 0) -> list[TrialRecord]:
    """All rounds, as `driver.py` goes through them."""
    records = [world.train(spec) for spec in first_round(sweep, seed=seed)]
    while specs := shallower_round(records, sweep):
        records += [world.train(spec) for spec in specs]
    while specs := final_round(records, sweep, RULE):
        records += [world.train(spec) for spec in specs]
    return records


@pytest.fixture(name="rule")
def _rule() -> HealthRule:
    return RULE


@pytest.fixture(name="record")
def _record() -> MakeRecord:
    return make_record


@pytest.fixture(name="world")
def _world() -> type[World]:
    return World


@pytest.fixture(name="search")
def _search() -> Callable[..., list[TrialRecord]]:
    return run_search
