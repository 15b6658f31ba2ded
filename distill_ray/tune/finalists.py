"""Which candidates of the earlier rounds are finalists, and which trial trains each at its own depth.

Between `ranking.py`, which rates candidates, and `space.final_round`, which has the missing ones trained.
With objective "prior-bits" a prior is trained on the codes of each finalist.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import CandidateRow
from distill_ray.tune.ranking import candidates, order
from distill_ray.tune.trial import FINISHED, TrialRecord, TrialSpec, make_spec
from distill_ray.vqvae.health import HealthRule


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A candidate that may win.

    `spec` is the trial that trains it at its own depth, `record` what became of that trial, if it ran.
    """

    candidate: CandidateRow
    spec: TrialSpec
    record: TrialRecord | None


def chosen_finalists(
    records: Sequence[TrialRecord], sweep: SweepConfig, rule: HealthRule
) -> tuple[Finalist, ...]:
    """The finalists, best first; empty as long as a trial of `records` has not finished.

    reconstruction and generation: the best eligible candidates, of each trial its best depth before a second
    one of any: cutting costs some codecs more than others. prior-bits: those of the best codebook sizes, each
    at the smallest depth that reconstructs as well as the worst of them. A finalist whose own training
    collapsed or failed is out; the next best take over where that happened to all of them.
    """
    if any(record.state not in FINISHED for record in records):
        return ()
    by_id = {record.spec.id: record for record in records}
    rows = candidates(records, sweep, rule)
    trained = {
        row.trial for row in rows if row.eligible and row.rvq_levels == by_id[row.trial].spec.rvq_levels
    }
    place = functools.partial(order, objective=sweep.objective)
    pool = sorted((row for row in rows if row.eligible and by_id[row.trial].spec.round != "final"), key=place)
    while pool:
        wave = [_finalist(row, by_id) for row in _best(pool, sweep)]
        standing = tuple(item for item in wave if item.record is None or item.spec.id in trained)
        if standing:
            return standing
        out = [item.candidate for item in wave]
        pool = [row for row in pool if row not in out]
    return ()


def _best(pool: Sequence[CandidateRow], sweep: SweepConfig) -> tuple[CandidateRow, ...]:
    """The finalists of `pool`, which is sorted, best first."""
    if sweep.objective != "prior-bits":
        place = functools.partial(order, objective=sweep.objective)
        first = {row.trial: row for row in reversed(pool)}
        seconds = [row for row in pool if row is not first[row.trial]]
        return (*sorted(first.values(), key=place), *seconds)[: sweep.finalists]
    best: dict[int, CandidateRow] = {}
    for row in pool:
        best.setdefault(row.codebook_size, row)
    sizes = list(best)[: sweep.finalists]
    target = max(best[size].val_loss for size in sizes)
    return tuple(
        min(
            (row for row in pool if row.codebook_size == size and row.val_loss <= target),
            key=lambda row: (row.rvq_levels, *order(row)),
        )
        for size in sizes
    )


def _finalist(row: CandidateRow, by_id: dict[str, TrialRecord]) -> Finalist:
    scored = by_id[row.trial]
    if scored.spec.rvq_levels == row.rvq_levels:
        return Finalist(candidate=row, spec=scored.spec, record=scored)
    spec = make_spec("final", row.codebook_size, (row.rvq_levels,), scored.spec.overrides)
    return Finalist(candidate=row, spec=spec, record=by_id.get(spec.id))
