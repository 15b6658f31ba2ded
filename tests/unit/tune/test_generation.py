"""Objective generation: from what the judge says of trials to records, ranking and finalists."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from distill_ray.config.resolve import KEPT_FLOOR, CorpusFacts
from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import ConfigError
from distill_ray.events.records import CodecJudged, GeneratedScore, StageProgress, TrialUpdate, to_record
from distill_ray.tune.finalists import chosen_finalists
from distill_ray.tune.machine import TrialResources
from distill_ray.tune.ranking import candidates, definition, winner
from distill_ray.tune.settings import SweepSettings, TrialPlanner
from distill_ray.tune.space import first_round, shallower_round
from distill_ray.tune.step_budget import CODEC_SHARE, StepBudget
from distill_ray.tune.trial import TrialRecord, from_json, to_json

SWEEP = SweepConfig(objective="generation", rvq_levels=(2, 4), max_kbps=6.0, decoded_margin=0.5)


def judged(record: TrialRecord, **scores: tuple[float, float]) -> TrialRecord:
    """`record` with (generated, decoded) of each depth "q2", "q4"."""
    rows = tuple(
        GeneratedScore(levels=int(name[1:]), generated=generated, decoded=decoded)
        for name, (generated, decoded) in scores.items()
    )
    return dataclasses.replace(
        record, generated=rows, prior_bits_per_second=700.0, histogram_bits_per_second=1000.0
    )


def test_what_generates_best_wins_whatever_reconstructs_best(record: Any, rule: Any) -> None:
    records = [
        judged(record(64, {2: 9.0, 4: 8.0}), q2=(2.5, 1.5), q4=(1.8, 1.4)),
        judged(record(256, {2: 5.0, 4: 4.0}), q2=(3.0, 1.1), q4=(2.9, 1.0)),
    ]
    rows = candidates(records, SWEEP, rule)
    best = winner(rows)
    assert best is not None
    assert (best.trial, best.rvq_levels, best.objective) == ("k64-q4", 4, 1.8)
    assert (best.generated, best.decoded, best.below_histogram) == (1.8, 1.4, pytest.approx(0.3))
    assert [row.generated for row in rows] == [1.8, 2.5, 2.9, 3.0]
    by_loss = winner(candidates(records, dataclasses.replace(SWEEP, objective="reconstruction"), rule))
    assert by_loss is not None
    assert by_loss.trial == "k256-q4"


def test_a_codec_that_decodes_far_worse_than_the_best_cannot_win(record: Any, rule: Any) -> None:
    records = [
        judged(record(64, {4: 8.0}), q4=(1.1, 1.6)),
        judged(record(128, {4: 8.0}), q4=(1.2, 1.5)),
        judged(record(256, {4: 4.0}), q4=(2.9, 1.0)),
    ]
    rows = {row.trial: row for row in candidates(records, SWEEP, rule)}
    assert not rows["k64-q4"].eligible
    assert rows["k64-q4"].reason == "decoded 60% above the best's 1.00, margin 50%"
    assert rows["k128-q4"].reason == "best"
    assert rows["k256-q4"].reason == "142% behind the best"
    assert rows["k128-q4"].chosen  # exactly at the margin
    assert rows["k256-q4"].eligible


def test_copies_ill_codecs_and_what_was_not_judged_are_out(record: Any, rule: Any) -> None:
    copied = dataclasses.replace(judged(record(64, {4: 8.0}), q4=(1.0, 1.0)), copied=True)
    ill = judged(record(128, {4: 8.0}, health=[0.9, 0.9, 0.1, 0.9]), q4=(1.0, 0.1))
    unjudged, fine = record(512, {4: 1.0}), judged(record(256, {4: 4.0}), q4=(2.9, 1.4))
    rows = {row.trial: row for row in candidates([copied, ill, unjudged, fine], SWEEP, rule)}
    assert rows["k64-q4"].reason == "copies training audio"
    assert rows["k128-q4"].reason == "level 2: utilization 0.10 < 0.30"
    assert rows["k512-q4"].reason == "its sounds were not judged"
    assert rows["k256-q4"].chosen  # the ill one's 0.1 is no best codec to be measured by


def test_finalists_are_those_that_generate_best(record: Any, rule: Any) -> None:
    records = [
        judged(record(64, {2: 9.0, 4: 8.0}), q2=(1.4, 1.0), q4=(1.5, 1.0)),
        judged(record(256, {2: 5.0, 4: 4.0}), q2=(3.0, 1.1), q4=(2.9, 1.0)),
        judged(record(512, {2: 5.0, 4: 4.0}), q2=(2.0, 1.1), q4=(2.5, 1.0)),
    ]
    found = chosen_finalists(records, SWEEP, rule)
    assert [(each.candidate.trial, each.spec.id) for each in found] == [
        ("k64-q4", "final-k64-q2"),
        ("k512-q4", "final-k512-q2"),
    ]


def test_a_level_that_the_prior_does_not_learn_is_left_out_in_another_trial(record: Any) -> None:
    ill = record(64, {2: 9.0, 4: 8.0}, state="collapsed", collapsed_level=3)
    assert [spec.id for spec in shallower_round([ill], SWEEP)] == ["k64-q2"]


def test_the_default_for_generation_searches_strides_by_what_is_generated() -> None:
    settings = SweepSettings.of({})
    sweep = settings.sweep
    assert (sweep.objective, sweep.codebook_sizes, sweep.strides) == (
        "generation",
        (256, 512, 1024),
        (2, 4, 8),
    )
    assert (settings.health.kept_floor, settings.health.gain_floor) == (KEPT_FLOOR, 0.0)
    assert [spec.id for spec in first_round(sweep, seed=0)][:4] == [
        "k256-q4-s2",
        "k256-q4-s4",
        "k256-q4-s8",
        "k512-q4-s2",
    ]
    compression = SweepSettings.of({"model.purpose": "compression"})
    assert (compression.sweep.objective, compression.sweep.strides) == ("reconstruction", ())
    assert compression.sweep.codebook_sizes == (64, 128, 256, 512, 1024)
    assert (compression.health.kept_floor, compression.health.gain_floor) == (0.0, 0.0)
    assert SweepSettings.of({"model.stride": 8}).sweep.strides == ()
    assert SweepSettings.of({"sweep.workers_per_trial": 2}).sweep.objective == "reconstruction"
    with pytest.raises(ConfigError, match="a trial is one process"):
        SweepSettings.of({"sweep.workers_per_trial": 2, "sweep.objective": "generation"})


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_strides_are_the_same_frame_rates_at_every_sample_rate(rate: int) -> None:
    facts = CorpusFacts(file_count=30, train_seconds=100.0, sample_rate=rate, channels=1)
    settings = SweepSettings.of({})
    scale = TrialResources(concurrent=1, gpus=0.0, workers=1, threads=2)
    made = TrialPlanner(settings, facts, scale, resumed=False, said=frozenset())
    rates = [made.resolve(spec).config.model.frame_rate for spec in first_round(settings.sweep, seed=0)[:3]]
    assert all(
        low <= found <= high
        for found, (low, high) in zip(rates, ((31, 47), (15, 24), (7.8, 12)), strict=True)
    )


def told(sweep: SweepConfig) -> int:
    """Steps that a search of 1,000 s tells two trials that make one in a second."""
    now = [0.0]
    budget = StepBudget(sweep=sweep, concurrent=2, ends_at=1000.0, clock=lambda: now[0], steps_per_epoch=1)
    budget.begin()
    for second in range(1, 20):
        now[0] = float(second)
        for trial in ("one", "other"):
            budget.hear(trial, {"event": "VQStepMetrics", "step": second, "steps_per_epoch": 1})
            budget.hear(trial, {"event": "PriorStepMetrics", "step": 9 * second, "steps_per_epoch": 1})
    said = budget.news(("one", "other"), ended=0)
    assert said is not None
    return said.steps


def test_prior_and_sounds_are_part_of_a_trials_time() -> None:
    sizes = SweepConfig(codebook_sizes=(16, 32), rvq_levels=(2,))
    alone = told(sizes)
    assert 900 < alone <= 1000
    assert told(dataclasses.replace(sizes, objective="generation")) == pytest.approx(
        CODEC_SHARE * alone, rel=0.01
    )


def test_a_record_with_the_judges_word_survives_json(record: Any) -> None:
    said = judged(record(64, {2: 9.0, 4: 8.0}), q2=(1.4, 1.0), q4=(1.5, 1.0))
    assert from_json(to_json(said), source="here") == said
    assert "joint Fréchet distance" in definition(SWEEP)


def judged_event(**changes: Any) -> CodecJudged:
    event = CodecJudged(
        prior_bits_per_second=700.0,
        histogram_bits_per_second=1000.0,
        gains=(0.4, 0.1),
        scores=(GeneratedScore(levels=2, generated=1.4, decoded=1.1),),
        copied=False,
    )
    return dataclasses.replace(event, **changes)


@pytest.fixture(name="desk")
def _desk(monkeypatch: pytest.MonkeyPatch) -> Any:
    from tests.unit.tune import test_ledger

    monkeypatch.setattr(test_ledger, "SWEEP", dataclasses.replace(SWEEP, codebook_sizes=(16,)))
    desk = test_ledger.Desk()
    desk.begin()
    desk.epoch(1, 7.0, 1, test_ledger.GOOD, test_ledger.GOOD)
    return desk


def test_a_trial_is_complete_once_it_is_judged(desk: Any) -> None:
    desk.ledger.take_event("k16-q4", to_record(StageProgress(stage="generate", done=0, total=8)))
    assert isinstance(desk.update, TrialUpdate)
    assert desk.update.stage == "generate"
    desk.ledger.take_event("k16-q4", to_record(judged_event()))
    assert (desk.update.generated, desk.update.decoded, desk.update.objective) == (1.4, 1.1, 1.4)
    assert desk.update.below_histogram == pytest.approx(0.3)
    record = desk.end("completed")
    assert (record.state, record.reason) == ("completed", "")
    assert [level.gain for level in record.codebook_health] == [0.4, 0.1]


def test_a_trial_that_ends_between_its_codec_and_the_judges_word_goes_on_there(desk: Any) -> None:
    assert desk.end("completed").state == "cancelled"
    assert desk.ledger.finished() == ()


def test_a_trial_whose_prior_learns_nothing_of_a_level_has_collapsed(desk: Any) -> None:
    reason = "level 1: prior's gain 0.00 < 0.01"
    desk.ledger.take_event("k16-q4", to_record(judged_event(scores=(), collapsed_level=1, reason=reason)))
    record = desk.end("completed")
    assert (record.state, record.reason, record.collapsed_level) == ("collapsed", reason, 1)
