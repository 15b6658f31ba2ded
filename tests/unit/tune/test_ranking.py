from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest

from distill_ray.config.sweep import SweepConfig
from distill_ray.config.vqvae import LossConfig
from distill_ray.events.records import CandidateRow, DepthScore
from distill_ray.tune.ranking import (
    advice,
    candidates,
    definition,
    pareto_front,
    trial_objective,
    winner,
)

RATE = 86.1328125
ANY_RATE = SweepConfig(max_kbps=1e6)
SEEDS = range(80)


def dominates(one: CandidateRow, other: CandidateRow) -> bool:
    no_worse = one.kbps <= other.kbps and one.val_loss <= other.val_loss
    return no_worse and (one.kbps < other.kbps or one.val_loss < other.val_loss)


def test_the_front_has_nothing_dominated_and_dominates_everything_else(
    world: Any, search: Any, rule: Any
) -> None:
    for seed in SEEDS:
        rows = candidates(search(world(seed, penalty=2.0, crashes=0.1, prunes=0.1), ANY_RATE), ANY_RATE, rule)
        front = [row for row in rows if row.on_front]
        healthy = [row for row in rows if row.eligible or row.reason == "ended early by none"]
        assert set(front) <= set(healthy)
        assert bool(front) == bool(healthy)
        assert not any(dominates(one, other) for one in healthy for other in front)
        for row in set(healthy) - set(front):
            assert any(
                dominates(one, row) or (one.kbps, one.val_loss) == (row.kbps, row.val_loss) for one in front
            )


def test_without_a_rate_limit_the_winner_is_on_the_front_of_what_may_win(
    world: Any, search: Any, rule: Any
) -> None:
    for seed in SEEDS:
        rows = candidates(search(world(seed), ANY_RATE), ANY_RATE, rule)
        best = winner(rows)
        eligible = [row for row in rows if row.eligible]
        assert (best is None) == (not eligible)
        if best is not None:
            least = pareto_front(eligible)[-1]
            assert (best.kbps, best.objective) == (least.kbps, least.objective)


def test_the_winner_is_the_best_that_was_trained_at_its_depth_and_within_the_limit(
    world: Any, search: Any, rule: Any
) -> None:
    for seed in SEEDS:
        sweep = SweepConfig(max_kbps=(1.5, 3.0, 6.0)[seed % 3])
        records = search(world(seed, penalty=4.0, crashes=0.1, prunes=0.1), sweep)
        rows = candidates(records, sweep, rule)
        own = {item.spec.id: item.spec.rvq_levels for item in records if item.state == "completed"}
        able = [row for row in rows if own.get(row.trial) == row.rvq_levels and row.kbps <= sweep.max_kbps]
        best = winner(rows)
        assert (best is None) == (not able)
        if best is not None:
            assert best.objective == min(row.val_loss for row in able)
            assert sum(row.chosen for row in rows) == 1


def test_the_order_of_the_records_does_not_matter(world: Any, search: Any, rule: Any) -> None:
    for seed in SEEDS:
        records = search(world(seed, crashes=0.2, prunes=0.2), SweepConfig())
        shuffled = random.Random(seed).sample(records, k=len(records))
        assert candidates(shuffled, SweepConfig(), rule) == candidates(records, SweepConfig(), rule)


def test_a_dominated_candidate_never_changes_the_winner(
    world: Any, search: Any, record: Any, rule: Any
) -> None:
    for seed in SEEDS:
        records = search(world(seed), ANY_RATE)
        best = winner(candidates(records, ANY_RATE, rule))
        if best is None:
            continue
        drawn = random.Random(seed)
        worse = record(2048, {16: best.val_loss + drawn.choice((0.0, 1.0)), 2: math.inf})
        rows = candidates([*records, worse], ANY_RATE, rule)
        again = winner(rows)
        assert again is not None
        assert (again.trial, again.rvq_levels) == (best.trial, best.rvq_levels)
        assert not next(row for row in rows if row.trial == "k2048-q16").on_front


@pytest.mark.parametrize("max_kbps", [2.6, 1e6])
def test_both_plans_choose_the_same_codec_where_cutting_levels_costs_nothing(
    world: Any, search: Any, rule: Any, max_kbps: float
) -> None:
    sizes, levels = (16, 64, 256, 1024), (2, 4, 5, 8)  # 16 codes × 8 levels has the rate of 256 × 4
    compared = cheaper = 0
    for seed in SEEDS:
        found, cost = [], []
        for plan in ("depth", "grid"):
            sweep = SweepConfig(codebook_sizes=sizes, rvq_levels=levels, plan=plan, max_kbps=max_kbps)
            earth = world(seed)
            best = winner(candidates(search(earth, sweep), sweep, rule))
            found.append(best and (best.codebook_size, best.rvq_levels, best.kbps, best.objective))
            cost.append(len(earth.ran))
        assert found[0] == found[1]
        compared += found[0] is not None
        cheaper += cost[0] < cost[1]
    assert compared > len(SEEDS) * 0.8
    assert cheaper == len(SEEDS)


def test_equal_losses_go_to_the_lower_rate_then_to_the_smaller_id(record: Any, rule: Any) -> None:
    rows = candidates([record(256, {4: 5.0}), record(64, {4: 5.0}), record(16, {8: 5.0})], ANY_RATE, rule)
    assert [(row.trial, row.on_front, row.chosen) for row in rows] == [
        ("k64-q4", True, True),
        ("k16-q8", False, False),
        ("k256-q4", False, False),
    ]
    assert [row.reason for row in rows] == [
        "best",
        *["as good as the best, which comes first by rate or name"] * 2,
    ]


def test_why_a_candidate_may_not_win(record: Any, rule: Any) -> None:
    losses = {2: 9.0, 8: 5.0}
    records = [
        record(256, losses, health=[0.9] * 5 + [0.12] * 3),
        record(1024, losses),
        record(512, losses, state="collapsed", collapsed_level=3, reason="collapsed level 3: and so on"),
        record(128, losses, state="pruned"),
        record(64, losses, state="failed", reason="out of memory"),
        record(32, {2: math.nan}),
        record(16, losses, state="running"),
        dataclasses.replace(record(2048, {2: 5.0}), codebook_health=()),
    ]
    rows = candidates(records, SweepConfig(scheduler="asha"), rule)
    reasons = {(row.codebook_size, row.rvq_levels): row.reason for row in rows}
    assert reasons == {
        (256, 2): "cut short: its trial has more levels",
        (256, 8): "level 5: utilization 0.12 < 0.30",
        (1024, 2): "cut short: its trial has more levels",
        (1024, 8): "over 6 kbit/s",
        (512, 2): "collapsed level 3: and so on",
        (512, 8): "collapsed level 3: and so on",
        (128, 2): "ended early by asha",
        (128, 8): "ended early by asha",
        (64, 2): "failed: out of memory",
        (64, 8): "failed: out of memory",
        (32, 2): "its held-out loss is nan",
        (16, 2): "not finished",
        (16, 8): "not finished",
        (2048, 2): "codebook health was not measured",
    }
    assert {row.reason for row in rows if row.eligible} == {"cut short: its trial has more levels"}
    assert {(row.codebook_size, row.rvq_levels) for row in rows if row.on_front} == {(128, 2), (128, 8)}
    assert winner(rows) is None  # those that may win were trained at another depth


def test_exactly_at_the_floor_and_at_the_limit_is_allowed(record: Any, rule: Any) -> None:
    exact = SweepConfig(max_kbps=5.5125)
    (row,) = candidates([record(256, {8: 5.0}, health=[0.3] * 8)], exact, rule)
    assert row.chosen


def test_prior_bits_ranks_only_what_a_prior_was_trained_on(record: Any, rule: Any) -> None:
    sweep = SweepConfig(objective="prior-bits")
    records = [
        record(256, {2: 7.0, 8: 5.0}, prior_bits_per_second=900.0),
        record(64, {2: 8.0, 8: 6.0}, prior_bits_per_second=800.0),
        record(128, {2: 8.0, 8: 5.5}),
    ]
    rows = candidates(records, sweep, rule)
    assert {(row.trial, row.rvq_levels): row.objective for row in rows} == {
        ("k256-q8", 2): None,
        ("k256-q8", 8): 900.0,
        ("k64-q8", 2): None,
        ("k64-q8", 8): 800.0,
        ("k128-q8", 2): None,
        ("k128-q8", 8): None,
    }
    best = winner(rows)
    assert best is not None
    assert best.trial == "k64-q8"
    assert {row.reason for row in rows if row.rvq_levels == 8} == {
        "best",
        "12% behind the best",
        "no prior was trained on its codes",
    }
    unmeasured = [dataclasses.replace(item, prior_bits_per_second=None) for item in records]
    assert (
        advice(unmeasured, sweep, rule)
        == "no prior was trained on the codes of a finalist: go on with --resume"
    )


def test_a_running_trial_is_compared_by_its_best_depth_within_the_limit() -> None:
    scores = [
        DepthScore(levels=depth, val_loss=loss, mel=1.0) for depth, loss in ((2, 9.0), (4, 7.0), (8, 5.0))
    ]
    assert trial_objective(scores, SweepConfig(), 256, RATE) == 5.0
    assert trial_objective(scores, SweepConfig(max_kbps=3.0), 256, RATE) == 7.0
    assert trial_objective(scores, SweepConfig(max_kbps=0.5), 256, RATE) == 9.0
    broken = dataclasses.replace(scores[2], val_loss=math.nan)
    assert trial_objective([*scores[:2], broken], SweepConfig(), 256, RATE) == 7.0
    assert trial_objective([broken], SweepConfig(), 256, RATE) is None
    assert trial_objective([], SweepConfig(), 256, RATE) is None


def test_the_definition_names_weights_split_and_limit() -> None:
    text = definition(SweepConfig(max_kbps=4.5), LossConfig(mel=12.5))
    for part in ("12.5 × log-mel", "10 × band levels", "60 × complex STFT", "120 × waveform"):
        assert part in text
    assert "validation split" in text
    assert "4.5 kbit/s" in text
    bits = definition(SweepConfig(objective="prior-bits", finalists=3))
    assert "held-out bits per second" in bits
    assert "best 3 codebook sizes" in bits


def test_advice_where_everything_is_above_the_limit(record: Any, rule: Any) -> None:
    text = advice([record(64, {5: 5.0, 8: 4.0})], SweepConfig(max_kbps=1.0), rule)
    assert text == (
        "every healthy codec is above 1 kbit/s: raise --max-kbps to at least 2.59, "
        "or add lower --rvq-levels or smaller --codebook-sizes"
    )
    assert advice([record(64, {5: 5.0})], SweepConfig(max_kbps=2.59), rule) == ""  # and following it helps


def test_advice_where_everything_collapsed(record: Any, rule: Any) -> None:
    records = [
        record(1024, {2: 5.0, 8: 4.0}, state="collapsed", collapsed_level=1),
        record(256, {2: 5.0}, health=[0.2, 0.1]),
    ]
    text = advice(records, SweepConfig(), rule)
    assert text.startswith(
        "2 of 2 trials had a level below a floor of the health rule: try smaller "
        "--codebook-sizes (such as 128)"
    )
    assert "model.reseed_threshold above 0" in text


def test_advice_where_trials_failed_or_were_ended_early(record: Any, rule: Any) -> None:
    failed = [record(2**bits, {2: 5.0}, state="failed", reason="out of memory") for bits in range(4, 11)]
    text = advice(failed, SweepConfig(), rule)
    assert text.startswith(
        "7 of 7 trials failed (k16-q2: out of memory): look at the logs in trials/k1024-q2, "
    )
    assert text.endswith(" and 2 more")
    assert "--scheduler none" in advice([record(64, {2: 5.0}, state="pruned")], SweepConfig(), rule)
    assert advice([], SweepConfig(), rule) == "no trial has run"
    running = record(64, {2: 5.0}, state="cancelled")
    assert advice([running], SweepConfig(), rule) == "no trial has finished: go on with --resume"


def test_advice_where_the_finalists_were_lost(record: Any, rule: Any) -> None:
    records = [record(256, {2: 5.0, 8: 6.0}, health=[0.9] * 7 + [0.1])]
    assert "no finalist was trained at its own depth" in advice(records, SweepConfig(), rule)
    lost = record(256, {2: 5.0}, round="final", state="failed", reason="no space left")
    text = advice([*records, lost], SweepConfig(), rule)
    assert "no finalist came through the training at its own depth: final-k256-q2 (no space left)" in text


def test_there_is_advice_exactly_where_there_is_no_winner(world: Any, search: Any, rule: Any) -> None:
    without = 0
    for seed in SEEDS:
        sweep = SweepConfig(codebook_sizes=(64, 256), rvq_levels=(4, 8), max_kbps=(2.0, 6.0)[seed % 2])
        records = search(world(seed, crashes=0.4, prunes=0.2), sweep)
        text = advice(records, sweep, rule)
        assert (text == "") == (winner(candidates(records, sweep, rule)) is not None)
        without += text != ""
    assert without > 10
