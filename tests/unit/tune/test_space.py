from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter
from typing import Any

import pytest

from distill_ray.config.sweep import SweepConfig
from distill_ray.tune.finalists import chosen_finalists
from distill_ray.tune.space import (
    Choice,
    LogUniform,
    final_round,
    final_round_size,
    first_round,
    first_round_size,
    needs_no_final_round,
    search_space,
    shallower_round,
    spec_of,
)
from distill_ray.tune.trial import FINISHED

DRAWN = SweepConfig(search="random", trials=200, lr_range=(1e-4, 1e-2), codebook_sizes=(64, 256))
SWEEPS = (
    SweepConfig(),
    SweepConfig(plan="grid"),
    SweepConfig(lrs=(1e-3, 3e-4), sizes=("tiny", "base"), commitment_weights=(0.25, 1.0)),
    SweepConfig(plan="grid", trials=7, lrs=(1e-5, 3e-4)),
    DRAWN,
    dataclasses.replace(DRAWN, plan="grid", commitment_weight_range=(0.05, 2.0)),
)


def test_the_plan_depth_trains_each_codebook_size_once_at_the_greatest_depth() -> None:
    specs = first_round(SweepConfig(codebook_sizes=(256, 64), rvq_levels=(8, 2)), seed=0)
    assert [(spec.id, spec.depths) for spec in specs] == [("k64-q8", (2, 8)), ("k256-q8", (2, 8))]


def test_the_plan_grid_trains_every_pair_at_its_own_depth() -> None:
    specs = first_round(SweepConfig(codebook_sizes=(64, 256), rvq_levels=(2, 8), plan="grid"), seed=0)
    assert [spec.id for spec in specs] == ["k64-q2", "k64-q8", "k256-q2", "k256-q8"]
    assert all(spec.depths == (spec.rvq_levels,) for spec in specs)


def test_other_settings_multiply_the_grid_and_show_in_the_id() -> None:
    sweep = SweepConfig(
        codebook_sizes=(64,), lrs=(1e-3, 1e-5), commitment_weights=(0.25,), sizes=("tiny", "base")
    )
    specs = first_round(sweep, seed=0)
    assert [spec.id for spec in specs] == [
        "k64-q8-lr1e-05-cw0.25-tiny",
        "k64-q8-lr1e-05-cw0.25-base",
        "k64-q8-lr0.001-cw0.25-tiny",
        "k64-q8-lr0.001-cw0.25-base",
    ]
    assert specs[0].overrides == {"training.lr": 1e-5, "model.commitment_weight": 0.25, "model.size": "tiny"}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_ids_are_unique_folder_names_and_the_same_every_time(sweep: SweepConfig) -> None:
    specs = first_round(sweep, seed=3)
    assert len({spec.id for spec in specs}) == len(specs) == first_round_size(sweep)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", spec.id) for spec in specs)
    assert first_round(sweep, seed=3) == specs


def test_values_that_print_alike_have_different_ids() -> None:
    close = SweepConfig(codebook_sizes=(64,), lrs=(0.00012345678, 0.00012345679))
    first, second = first_round(close, seed=0)
    assert first.id != second.id


def test_a_part_of_a_grid_is_drawn_by_the_seed_and_keeps_its_order() -> None:
    whole = [spec.id for spec in first_round(SweepConfig(plan="grid"), seed=0)]
    parts = set()
    for seed in range(20):
        part = [spec.id for spec in first_round(SweepConfig(plan="grid", trials=5), seed=seed)]
        assert len(part) == 5
        assert part == [name for name in whole if name in part]
        parts.add(tuple(part))
    assert len(parts) > 15
    assert len(first_round(SweepConfig(plan="grid", trials=99), seed=0)) == len(whole) == 15


def test_drawn_values_are_log_uniform_in_their_range_with_three_digits() -> None:
    rates = [float(str(spec.overrides["training.lr"])) for spec in first_round(DRAWN, seed=1)]
    assert all(1e-4 <= rate <= 1e-2 and float(f"{rate:.3g}") == rate for rate in rates)
    assert 70 < sum(rate < 1e-3 for rate in rates) < 130  # half of them: 100, standard deviation 7


def test_random_trials_take_every_listed_value_equally_often_and_grow_at_the_end() -> None:
    specs = first_round(DRAWN, seed=1)
    assert Counter(spec.codebook_size for spec in specs) == {64: 100, 256: 100}
    fewer = first_round(dataclasses.replace(DRAWN, trials=31), seed=1)
    assert fewer == specs[:31]
    assert first_round(DRAWN, seed=2) != specs


def test_random_trials_end_where_nothing_new_can_be_drawn() -> None:
    listed = SweepConfig(search="random", trials=99, plan="grid")
    assert {spec.id for spec in first_round(listed, seed=0)} == {
        spec.id for spec in first_round(SweepConfig(plan="grid"), seed=0)
    }
    assert first_round_size(SweepConfig(search="random", plan="grid", sizes=("tiny", "small"))) == 16
    narrow = SweepConfig(search="random", trials=50, codebook_sizes=(64,), lr_range=(1e-3, 1.02e-3))
    assert [spec.id for spec in sorted(first_round(narrow, seed=0), key=lambda spec: spec.id)] == [
        "k64-q8-lr0.001",
        "k64-q8-lr0.00101",
        "k64-q8-lr0.00102",
    ]


def test_optuna_gets_the_space_and_its_values_become_a_trial() -> None:
    sweep = dataclasses.replace(DRAWN, search="optuna", plan="grid", sizes=("base", "tiny"))
    assert first_round(sweep, seed=0) == ()
    assert search_space(sweep) == {
        "model.codebook_size": Choice(values=(64, 256)),
        "model.num_quantizers": Choice(values=(2, 4, 8)),
        "training.lr": LogUniform(low=1e-4, high=1e-2),
        "model.size": Choice(values=("tiny", "base")),
    }
    values = {"model.codebook_size": 64, "model.num_quantizers": 4, "model.size": "tiny"}
    spec = spec_of({**values, "training.lr": 0.00123456}, sweep)
    assert (spec.id, spec.depths, spec.overrides["training.lr"]) == ("k64-q4-lr0.00123-tiny", (4,), 0.00123)
    assert spec_of({**values, "training.lr": 0.00123123}, sweep) == spec
    edge = dataclasses.replace(sweep, lr_range=(0.00012345, 0.1))
    assert spec_of({**values, "training.lr": 0.00012345}, edge).overrides["training.lr"] == 0.00012345


@pytest.mark.parametrize(("level", "again"), [(7, 4), (4, 4), (3, 2), (2, 2), (1, None), (0, None)])
def test_a_collapsed_trial_is_tried_again_above_the_level_that_collapsed(
    record: Any, level: int, again: int | None
) -> None:
    ended = record(256, {2: 9.0, 4: 8.0, 8: 7.0}, state="collapsed", collapsed_level=level)
    specs = shallower_round([ended], SweepConfig())
    assert [spec.rvq_levels for spec in specs] == ([] if again is None else [again])
    assert all(spec.depths == tuple(d for d in (2, 4) if d <= level) for spec in specs)
    assert all(spec.round == "shallower" for spec in specs)
    assert shallower_round([ended], SweepConfig(plan="grid")) == ()


def test_a_trial_tried_again_keeps_its_other_settings(record: Any) -> None:
    ended = record(256, {2: 9.0, 8: 7.0}, state="collapsed", collapsed_level=5)
    spec = dataclasses.replace(ended.spec, id="k256-q8-lr0.001", overrides={"training.lr": 0.001})
    (again,) = shallower_round([dataclasses.replace(ended, spec=spec)], SweepConfig())
    assert (again.id, again.overrides) == ("k256-q2-lr0.001", {"training.lr": 0.001})


@pytest.mark.parametrize("state", ["completed", "failed", "pruned", "cancelled", "running"])
def test_only_collapsed_trials_are_tried_again(record: Any, state: str) -> None:
    assert shallower_round([record(256, {2: 9.0, 8: 7.0}, state=state)], SweepConfig()) == ()


def test_finalists_are_trained_at_their_own_depth_unless_they_were(record: Any, rule: Any) -> None:
    records = [record(256, {2: 9.0, 4: 5.0, 8: 6.0}), record(64, {2: 9.5, 4: 8.0, 8: 5.5})]
    (spec,) = final_round(records, SweepConfig(), rule)
    assert (spec.id, spec.round, spec.depths) == ("final-k256-q4", "final", (4,))
    assert [item.spec.id for item in chosen_finalists(records, SweepConfig(), rule)] == [
        "final-k256-q4",
        "k64-q8",
    ]
    done = [*records, record(256, {4: 5.2}, round="final")]
    assert final_round(done, SweepConfig(), rule) == ()
    assert [item.record.spec.id for item in chosen_finalists(done, SweepConfig(), rule) if item.record] == [
        "final-k256-q4",
        "k64-q8",
    ]


def test_finalists_that_need_no_last_round_are_told_from_those_without_time(record: Any, rule: Any) -> None:
    """A search said "then 2 finalists", trained none and said nothing."""
    deepest = [record(256, {2: 9.0, 8: 5.0}), record(64, {2: 9.5, 8: 5.5})]
    assert needs_no_final_round(deepest, SweepConfig(), rule)
    assert not needs_no_final_round(deepest, SweepConfig(plan="grid"), rule)
    cut = [record(256, {2: 9.0, 4: 5.0, 8: 6.0}), deepest[1]]
    assert not needs_no_final_round(cut, SweepConfig(), rule)
    assert not needs_no_final_round([*cut, record(256, {4: 5.2}, round="final")], SweepConfig(), rule)
    assert not needs_no_final_round([], SweepConfig(), rule)


def test_no_final_round_before_all_trials_have_finished(record: Any, rule: Any) -> None:
    records = [record(256, {2: 9.0, 4: 5.0, 8: 6.0}), record(64, {2: 9.0, 8: 8.0}, state="cancelled")]
    assert final_round(records, SweepConfig(), rule) == ()
    assert final_round([], SweepConfig(), rule) == ()


def test_fewer_finalists_than_asked_for(record: Any, rule: Any) -> None:
    records = [record(256, {2: 5.0, 8: 6.0}, health=[0.9] * 7 + [0.1])]
    records += [record(64, {2: 4.0, 8: 3.0}, state="failed"), record(1024, {2: 4.0, 8: 1.0}, state="pruned")]
    assert [spec.id for spec in final_round(records, SweepConfig(finalists=9), rule)] == ["final-k256-q2"]
    assert final_round(records[1:], SweepConfig(), rule) == ()


def test_a_lost_finalist_is_replaced_only_where_no_other_stands(record: Any, rule: Any) -> None:
    records = [record(256, {2: 5.0, 4: 6.0, 8: 9.0}), record(64, {2: 7.0, 4: 8.0, 8: 10.0})]
    two, one = SweepConfig(finalists=2), SweepConfig(finalists=1)
    assert [spec.id for spec in final_round(records, two, rule)] == ["final-k256-q2", "final-k64-q2"]
    lost = record(256, {2: 4.0}, round="final", state="collapsed")
    assert [spec.id for spec in final_round([*records, lost], two, rule)] == ["final-k64-q2"]
    assert [spec.id for spec in final_round([*records, lost], one, rule)] == ["final-k256-q4"]
    stands = record(64, {2: 6.5}, round="final")
    assert final_round([*records, lost, stands], two, rule) == ()


def test_finalists_are_of_different_trials_as_long_as_there_are_some(record: Any, rule: Any) -> None:
    """The figures of the sonic-pi samples at 3 kbit/s: the second best candidate was the winner's codec cut
    further, and plan grid found 256 × 4 the best."""
    records = [
        record(64, {2: 29.71, 4: 29.52, 8: 29.49}),
        record(256, {2: 29.93, 4: 29.84, 8: 29.70}),
    ]

    def finals(count: int) -> list[str]:
        sweep = SweepConfig(max_kbps=3.0, finalists=count)
        return [spec.id for spec in final_round(records, sweep, rule)]

    assert finals(2) == ["final-k64-q4", "final-k256-q4"]
    assert finals(3) == ["final-k64-q4", "final-k256-q4", "final-k64-q2"]


def test_prior_bits_takes_the_smallest_depths_that_match_the_worst_finalist(record: Any, rule: Any) -> None:
    records = [
        record(1024, {2: 6.0, 4: 5.0, 8: 4.0}),  # over the limit at depth 8 (6.9 kbit/s)
        record(256, {2: 8.0, 4: 6.1, 8: 5.5}),
        record(64, {2: 9.0, 4: 8.0, 8: 7.0}),
    ]
    sweep = SweepConfig(objective="prior-bits", finalists=2)
    finalists = chosen_finalists(records, sweep, rule)  # worst of the best two sizes: 5.5
    assert [(item.candidate.codebook_size, item.candidate.rvq_levels) for item in finalists] == [
        (1024, 4),
        (256, 8),
    ]
    assert [spec.id for spec in final_round(records, sweep, rule)] == ["final-k1024-q4"]
    three = chosen_finalists(records, dataclasses.replace(sweep, finalists=3), rule)  # 7.0
    assert [item.spec.id for item in three] == ["final-k1024-q2", "final-k256-q4", "k64-q8"]


def test_prior_bits_of_a_grid_needs_no_other_training(record: Any, rule: Any) -> None:
    records = [record(size, {depth: 20.0 - depth - size / 100}) for size in (64, 256) for depth in (2, 4, 8)]
    sweep = SweepConfig(objective="prior-bits", plan="grid")
    assert [item.spec.id for item in chosen_finalists(records, sweep, rule)] == ["k256-q8", "k64-q8"]
    assert final_round(records, sweep, rule) == ()
    assert final_round_size(sweep) == 0
    assert final_round_size(SweepConfig(finalists=3)) == 3


@pytest.mark.parametrize("objective", ["reconstruction", "prior-bits"])
def test_rounds_end_never_repeat_an_id_and_are_the_same_after_a_resume(
    world: Any, search: Any, rule: Any, objective: str
) -> None:
    for seed in range(60):
        sweep = SweepConfig(objective=objective, finalists=1 + seed % 4, max_kbps=(2.0, 4.0, 6.0)[seed % 3])
        earth = world(seed, penalty=3.0, crashes=0.15, prunes=0.1)
        records = search(earth, sweep)
        # Killed at any moment, a search finds the same trials again: every subset of the first round's
        # records asks for a part of the same shallower trials, and only a whole round has finalists.
        rounds = {
            name: [item for item in records if item.spec.round == name] for name in ("search", "shallower")
        }
        shallower = {item.spec.id for item in rounds["shallower"]}
        some = random.Random(seed).sample(rounds["search"], k=3)
        assert {spec.id for spec in shallower_round(some, sweep)} <= shallower
        begun = [*rounds["search"], *rounds["shallower"]]
        first = [spec.id for spec in final_round(begun, sweep, rule)]
        for kept in range(len(records)):
            before = records[:kept]
            running = dataclasses.replace(records[kept], state="cancelled")
            assert final_round([*before, running], sweep, rule) == ()
            if kept >= len(begun):
                due = {spec.id for spec in final_round(before, sweep, rule)}
                assert due <= {item.spec.id for item in records[kept:]}
        assert first == [item.spec.id for item in records[len(begun) :]][: len(first)]


def test_every_trial_of_a_made_up_search_is_finished(world: Any, search: Any) -> None:
    states = Counter(
        item.state for seed in range(20) for item in search(world(seed, crashes=0.2, prunes=0.2), SWEEPS[0])
    )
    assert set(states) == set(FINISHED)  # or the properties above would be tested on too little
