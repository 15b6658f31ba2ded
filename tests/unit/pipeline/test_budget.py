"""One time budget for the whole of `run`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill_ray.config.check import check_settings
from distill_ray.config.sweep import SweepConfig
from distill_ray.display.sweep_lines import plan_lines
from distill_ray.errors import ConfigError
from distill_ray.events.records import PipelinePlan, PlannedStage, PriorEpochMetrics, VQEpochMetrics
from distill_ray.pipeline.advice import Advice
from distill_ray.pipeline.budget import Steps, TimeBudget, budget_of, too_small_for
from distill_ray.pipeline.slowness import Slowness
from distill_ray.pipeline.stages.prior import Prior


def test_what_is_left_is_shared_by_what_is_still_to_come() -> None:
    now = [100.0]
    slow = [1.0]
    budget = TimeBudget(
        total_s=600.0,
        spent_s=0.0,
        began=100.0,
        judge_s=42.0,
        sound_s=40.0,
        corpus_s=100.0,
        clock=lambda: now[0],
        slowness=lambda: slow[0],
    )
    expected = budget.expected("codec")
    assert sum(expected.values()) == pytest.approx(600.0)
    assert expected["report"] == pytest.approx(7.32 + 42.0)
    assert expected["samples"] == pytest.approx(24.0)
    now[0] += 400.0  # prepare and codec took longer than expected: the prior gets what is left
    assert budget.trainings_s == pytest.approx(200.0 - 49.32 - 24.0)
    assert budget.prior_left_s == pytest.approx(0.9 * 126.68)
    slow[0] = 3.0  # other programs came: the judge is left out, and the endings take three times as long
    assert not budget.judges
    assert budget.trainings_s == pytest.approx(200.0 - 24.0 - 3 * 7.32)
    assert budget.prior_left_s == pytest.approx(154.04 - 3 * (9.0 + 1.0))
    budget.prior_s = 100.0
    assert budget.prior_left_s == pytest.approx(100.0 - 30.0)
    budget.prior_s = 30.0
    assert budget.prior_left_s == pytest.approx(15.0)
    now[0] += 500.0
    assert budget.prior_left_s == 1.0  # at least one step


def test_what_follows_the_trainings_shrinks_when_it_is_late() -> None:
    """`run --max-minutes 3` took 5:00 where five other programs came during the prior's training."""
    now, slow = [150.0], [1.0]
    budget = TimeBudget(
        total_s=180.0, spent_s=0.0, began=0.0, sound_s=80.0, clock=lambda: now[0], slowness=lambda: slow[0]
    )
    assert budget.spare_s == pytest.approx(30.0 - 7.32 - 7.2)
    assert budget.seconds_of_sound(10.0) == 10.0
    assert budget.has_time_for_sound(22.0)
    assert budget.page_sounds() == 150
    slow[0] = 6.0
    assert budget.spare_s < 0.0
    assert budget.seconds_of_sound(30.0) == pytest.approx(25.0)  # of 0.48 s each, before a page of 18 s
    assert not budget.has_time_for_sound(22.0)
    assert budget.page_sounds() == 11
    now[0] = 200.0  # something is made all the same
    assert budget.seconds_of_sound(10.0) == 1.0
    assert budget.page_sounds() == 4


def test_a_machine_that_is_taken_at_the_moment_does_not_take_the_trainings_their_time() -> None:
    """With two hungry programs beside it, samples were given 17 of a run's 10 minutes and the search none."""
    budget = TimeBudget(
        total_s=600.0, spent_s=0.0, began=0.0, sound_s=40.0, corpus_s=100.0, clock=lambda: 100.0
    )
    budget.slowness = lambda: 50.0
    expected = budget.expected("tune")
    assert expected == pytest.approx({"tune": 70.0, "prior": 250.0, "samples": 120.0, "report": 60.0})
    assert budget.prior_left_s == pytest.approx(200.0)


def test_slowness_is_what_threads_waited_for_a_core(tmp_path: Path) -> None:
    for name, text in {"1": "3000000000 6000000000 9", "2": "1000000000 2000000000 1", "3": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    assert Slowness(tasks=tmp_path)() == 3.0
    (tmp_path / "1" / "schedstat").unlink()
    assert Slowness(tasks=tmp_path)() == 1.0  # a second of work tells nothing
    assert Slowness(tasks=tmp_path / "none")() == 1.0
    assert Slowness()() >= 1.0


def test_slowness_is_that_of_late(tmp_path: Path) -> None:
    """A machine that others took at the end of a run seemed hardly slower by the whole of it."""
    now, account = [0.0], tmp_path / "1" / "schedstat"
    account.parent.mkdir()
    slowness = Slowness(tasks=tmp_path, clock=lambda: now[0])
    for at, ran, waited in ((0, 0, 0), (100, 100, 0), (124, 104, 20)):
        now[0] = at
        account.write_text(f"{ran}000000000 {waited}000000000 9")
        slowness.hear(None)
    assert slowness() == 6.0
    now[0] = 150  # nothing was done since
    assert slowness() == 6.0


def test_a_resumed_run_has_what_its_earlier_part_left() -> None:
    settings = {"pipeline.max_minutes": 10.0, "prior_training.max_minutes": 2.0}
    budget = budget_of(settings, spent_s=240.0, began=0.0, judge_s=1e9, corpus_s=100.0, slowness=lambda: 1.0)
    assert budget is not None
    budget.clock = lambda: 0.0
    assert budget.left_s == 360.0
    assert not budget.judges  # which would take more than its share
    assert budget.expected("tune")["prior"] == pytest.approx(120.0)
    assert budget_of({}, spent_s=0.0, began=0.0, judge_s=0.0, corpus_s=0.0, slowness=lambda: 1.0) is None


@pytest.mark.parametrize(("purpose", "share"), [({}, 0.65), ({"model.purpose": "compression"}, 0.35)])
def test_the_prior_of_a_codec_for_generation_has_most_of_the_time(
    purpose: dict[str, str], share: float
) -> None:
    settings = {"pipeline.max_minutes": 100.0, **purpose}
    budget = budget_of(settings, spent_s=0.0, began=0.0, judge_s=1e9, corpus_s=0.0, slowness=lambda: 1.0)
    assert budget is not None
    budget.clock = lambda: 0.0
    prior = budget.expected("codec")["prior"] - budget.ending_s
    assert prior == pytest.approx(share * (budget.trainings_s - budget.ending_s))


def test_a_search_is_left_out_where_two_trials_of_two_epochs_do_not_fit() -> None:
    steps, sweep = Steps(per_epoch=100, seconds=0.1, concurrent=2), SweepConfig()
    # Ray 15 s; one wave of trials and one of finalists, each 10 s and 200 steps of 0.2 s.
    assert steps.search_seconds(sweep, trials=2, epochs=2) == pytest.approx(15 + 2 * (10 + 40))
    assert too_small_for(sweep, steps, 115.0) == ""
    assert too_small_for(sweep, steps, 100.0) == (
        "2 trials of 2 epochs take about 1 min 55 s here, and the budget leaves 1 min 40 s for a search"
    )


def test_a_prior_that_would_take_it_all_is_refused() -> None:
    check_settings("run", {"pipeline.max_minutes": 2.0, "prior_training.max_minutes": 0.5})
    with pytest.raises(ConfigError) as caught:
        check_settings("run", {"pipeline.max_minutes": 2.0, "prior_training.max_minutes": 3.0})
    (problem,) = caught.value.problems
    assert problem.key == "prior_training.max_minutes"
    assert problem.message == (
        "3 minutes for the prior leave nothing of the 2 of the whole run; lower it, or raise --max-minutes"
    )


def test_the_plan_has_a_column_of_expected_times() -> None:
    stages = (
        PlannedStage(stage="tune", skipped=True, reason="too little time"),
        PlannedStage(stage="codec", skipped=False, reason="instead of a search", expected_s=83.0),
    )
    assert plan_lines(PipelinePlan(output_dir="o", stages=stages))[1:] == [
        "  tune   skipped                     too little time",
        "  codec  will run  about 1 min 23 s  instead of a search",
    ]


def epoch(number: int, loss: float, *, prior: bool) -> VQEpochMetrics | PriorEpochMetrics:
    common = {"epoch": number, "epochs": None, "step": 10 * number, "train_loss": loss, "val_loss": loss}
    if prior:
        return PriorEpochMetrics(
            **common,  # type: ignore[arg-type]
            val_perplexity=1.0,
            best_perplexity=1.0,
            best_epoch=1,
            bits_per_second=1.0,
            is_memorizing=False,
            memorization_message="",
            skipped_steps=0,
            codes_per_second=1.0,
            elapsed_s=1.0,
        )
    return VQEpochMetrics(
        **common,  # type: ignore[arg-type]
        best_val_loss=loss,
        best_epoch=number,
        losses={},
        val_losses={},
        codebook_health=(),
        utilization_warnings=(),
        reseeded_codes=0,
        skipped_steps=0,
        audio_seconds_per_second=1.0,
        elapsed_s=1.0,
    )


def test_what_would_help_most_is_told_from_what_was_measured() -> None:
    advice = Advice()
    assert advice.sentence() == ""
    for number, loss in enumerate([10.0, 8.0, 7.0, 6.3], 1):
        advice(epoch(number, loss, prior=False))
    for number, loss in enumerate([5.0, 4.0, 4.2, 4.4], 1):
        advice(epoch(number, loss, prior=True))
    said = advice.sentence().replace("\u00a0", "")
    assert said == (
        "what would help most: more audio, as the prior's held-out cost was lowest after 2 of 4 epochs; "
        "longer, as the codec's held-out loss still fell by 10% in its last quarter"
    )


def test_a_prior_that_a_search_began_has_what_is_left_and_a_cut_one_what_it_had(
    tmp_path: Path,
) -> None:
    budget = TimeBudget(total_s=600.0, spent_s=0.0, began=0.0, clock=lambda: 300.0, slowness=lambda: 1.0)
    context: Any = SimpleNamespace(record=SimpleNamespace(model=tmp_path / "m.distill"))
    left = budget.prior_left_s / 60.0
    assert left == pytest.approx(4.0, rel=0.1)
    stage = Prior(context)
    assert stage._minutes(budget) == pytest.approx(left, abs=0.001)
    latest = tmp_path / "m.prior" / "checkpoints" / "latest"
    latest.mkdir(parents=True)
    (latest / "progress.json").write_text('{"elapsed_s": 30.0}')
    settings = tmp_path / "m.prior" / "run.toml"
    settings.write_text("[prior_training]\nlr = 0.001\n")  # the short prior of a trial, which has no budget
    assert stage._minutes(budget) == pytest.approx(left + 0.5, abs=0.001)
    settings.write_text("[prior_training]\nmax_minutes = 2.0\n")
    assert stage._minutes(budget) == 2.0
