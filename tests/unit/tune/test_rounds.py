from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import InstallationError
from distill_ray.events.records import DepthScore
from distill_ray.tune import rounds as sweep_search
from distill_ray.tune.rounds import Rounds
from distill_ray.tune.trial import TrialRecord, TrialSpec
from distill_ray.vqvae.health import HealthRule, LevelHealth

RULE = HealthRule(measure="utilization", floor=0.3, patience=3, warmup=2)
GOOD = LevelHealth(utilization=1.0, perplexity=16.0, dead_codes=0, entropy=1.0)


def done(spec: TrialSpec, *, collapsed: int | None = None) -> TrialRecord:
    """A finished trial: more codes and more levels reconstruct better, and a rate of 0.001 is best."""
    lr = spec.overrides.get("training.lr", 0.001)
    assert isinstance(lr, float)
    loss = 100.0 / spec.codebook_size + abs(lr - 0.001)
    return TrialRecord(
        spec=spec,
        state="completed" if collapsed is None else "collapsed",
        frame_rate=62.5,
        val_loss=loss,
        depth_scores=tuple(DepthScore(levels=d, val_loss=loss + 1 / d, mel=0.1) for d in spec.depths),
        codebook_health=(GOOD,) * spec.rvq_levels,
        collapsed_level=collapsed,
    )


def rounds(sweep: SweepConfig, records: list[TrialRecord]) -> Rounds:
    return Rounds(
        sweep, RULE, seed=0, records=records, objective=lambda record: record.depth_scores[-1].val_loss
    )


def run(sweep: SweepConfig, finished: list[TrialRecord], *, cut_after: int = 99) -> list[str]:
    """The ids of the trials of a search that runs one at a time; level 2 of 64 codes collapses."""
    search, ids = rounds(sweep, finished), []
    while len(ids) < cut_after and (spec := search.next(finished, ())) is not None:
        deep = spec.codebook_size == 64 and spec.rvq_levels > 2
        finished.append(done(spec, collapsed=2 if deep else None))
        search.ended(finished[-1])
        ids.append(spec.id)
    more = search.has_more(finished)
    assert (search.next(finished, ()) is None) == (not more)
    return ids


def test_the_rounds_follow_each_other_and_a_cut_search_goes_on_with_what_is_missing() -> None:
    sweep = SweepConfig(codebook_sizes=(16, 32, 64), rvq_levels=(2, 4), max_kbps=100.0)
    whole = run(sweep, [])
    assert whole == ["k16-q4", "k32-q4", "k64-q4", "k64-q2"]  # the best candidates had their own depth
    for cut in range(len(whole)):
        finished: list[TrialRecord] = []
        assert run(sweep, finished, cut_after=cut) == whole[:cut]
        assert run(sweep, finished) == whole[cut:]


def test_finalists_wait_for_the_round_before_them() -> None:
    sweep = SweepConfig(codebook_sizes=(16, 32), rvq_levels=(2, 4), max_kbps=0.7, finalists=1)
    search = rounds(sweep, [])
    first = search.next([], ())
    assert first is not None
    second = search.next([], {first.id})
    assert second is not None
    assert search.next([done(first)], {second.id}) is None
    final = search.next([done(first), done(second)], ())
    assert final is not None
    assert final.id == "final-k32-q2"
    assert search.next([done(first), done(second), done(final)], ()) is None


def test_optuna_proposes_new_trials_and_knows_those_of_the_search_that_was_cut() -> None:
    sweep = SweepConfig(
        codebook_sizes=(16, 32),
        rvq_levels=(2,),
        lr_range=(1e-4, 1e-2),
        search="optuna",
        trials=14,
        max_kbps=100.0,
    )
    finished: list[TrialRecord] = []
    ids = run(sweep, finished)
    assert len(set(ids)) == len(ids) == 14
    assert run(sweep, finished) == []
    more = replace(sweep, trials=24)
    rates = [spec.overrides["training.lr"] for spec in (record.spec for record in finished)]
    again = run(more, finished)
    assert len(again) == 10
    late = [record.spec for record in finished[14:]]
    # What TPE learnt before the cut: the larger codebook, and rates near the best one.
    assert sum(spec.codebook_size == 32 for spec in late) >= 7
    assert sum(float(str(spec.overrides["training.lr"])) not in rates for spec in late) == 10


def test_what_optuna_proposed_before_the_search_was_cut_goes_on_first() -> None:
    sweep = SweepConfig(
        codebook_sizes=(16, 32),
        rvq_levels=(2,),
        lr_range=(1e-4, 1e-2),
        search="optuna",
        trials=2,
        max_kbps=100.0,
    )
    first = rounds(sweep, []).next([], ())
    assert first is not None
    cut = replace(done(first), state="cancelled")
    search, finished = rounds(sweep, [cut]), [done(first)]
    assert search.next([], ()) == first
    search.ended(finished[0])
    second = search.next(finished, ())
    assert second is not None
    assert second != first
    assert search.next([*finished, done(second)], ()) is None


def test_optuna_ends_when_it_has_seen_all() -> None:
    sweep = SweepConfig(
        codebook_sizes=(16, 32), rvq_levels=(2,), lrs=(1e-3, 2e-3), search="optuna", trials=9, max_kbps=100.0
    )
    assert sorted(run(sweep, [])) == [
        "k16-q2-lr0.001",
        "k16-q2-lr0.002",
        "k32-q2-lr0.001",
        "k32-q2-lr0.002",
    ]


def test_a_live_trial_is_not_proposed_again() -> None:
    sweep = SweepConfig(codebook_sizes=(16, 32), rvq_levels=(2,), search="optuna", max_kbps=100.0)
    search = rounds(sweep, [])
    first = search.next([], ())
    assert first is not None
    second = search.next([], {first.id})
    assert second is not None
    assert {first.id, second.id} == {"k16-q2", "k32-q2"}
    assert search.next([], {first.id, second.id}) is None


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstallationError, match=r"pip install 'distill-ray\[optuna\]'"):
        sweep_search.require_optuna()
