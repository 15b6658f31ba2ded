from __future__ import annotations

import dataclasses
import math

from distill_ray.display.sweep import ENDED, RUNNING, SweepHistory


def history(events: list[object]) -> SweepHistory:
    made = SweepHistory()
    for event in events:
        made.add(event)
    return made


def ids(trials) -> list[int]:
    return [trial.codebook_size for trial in trials]


def test_the_newest_update_of_a_trial_counts(sweep):
    made = history(sweep)
    assert {key: item.state for key, item in made.trials.items()} == {
        "k64-q8": "completed",
        "k256-q8": "running",
        "k1024-q8": "collapsed",
    }
    assert (made.count(RUNNING), made.count(ENDED), made.expected) == (1, 2, 3)
    assert (made.spent, made.unit) == (1211.0, "GPU s")


def test_the_drivers_total_replaces_the_sum(sweep, sweep_complete):
    assert history([*sweep, sweep_complete]).spent == 1250.0


def test_without_a_gpu_seconds_of_trials_are_counted(sweep_started, sweep_complete, trial):
    """GPU seconds would say 0 of a search that took an hour."""
    on_cpu = dataclasses.replace(sweep_started, gpus_per_trial=0.0)
    made = history([on_cpu, trial(64, elapsed_s=40.0), trial(256, elapsed_s=2.5)])
    assert (made.spent, made.unit) == (42.5, "trial s")
    made.add(dataclasses.replace(sweep_complete, gpu_seconds=0.0))
    assert made.spent == 42.5


def test_later_rounds_raise_the_number_of_trials(sweep, trial):
    more = trial(64, trial="final-k64-q4", round="final")
    assert history([*sweep, more]).expected == 4


def test_what_cannot_win_stands_below_whatever_its_objective(sweep):
    """The collapsed trial has the best loss of all."""
    assert ids(history(sweep).ranked()) == [64, 256, 1024]


def test_the_best_objective_is_first_and_nan_is_none(trial):
    updates = [
        trial(16, objective=math.nan),
        trial(32, objective=3.0),
        trial(64, "pending"),
        trial(128),
        trial(256, "completed", objective=2.0),
    ]
    assert ids(history(updates).ranked()) == [256, 32, 16, 128, 64]


def test_running_trials_are_shown_before_better_ones(trial):
    done = [trial(codes, "completed", objective=float(codes)) for codes in (16, 32, 64, 128)]
    made = history([*done, trial(512, objective=900.0), trial(1024)])
    assert ids(made.shown(3)) == [16, 512, 1024]
    assert ids(made.shown(0)) == [512]
    assert len(made.shown(99)) == 6


def test_what_is_left_comes_from_the_budget_or_from_what_trials_took(sweep_started, trial):
    """Two at a time; three trials and two finalists in all."""
    now = [100.0]
    made = SweepHistory(clock=lambda: now[0])
    assert made.left_s() is None
    made.add(sweep_started)
    assert made.left_s() is None
    made.add(trial(64, elapsed_s=10.0, eta_s=30.0))
    assert made.left_s() == (4 * 40.0 + 30.0) / 2
    made.add(trial(64, "completed", elapsed_s=40.0))
    made.add(trial(256, elapsed_s=15.0))  # its prior trains, of which nobody knows how long
    assert made.left_s() == (3 * 40.0 + 25.0) / 2
    made.add(dataclasses.replace(sweep_started, left_s=300.0))
    now[0] += 60.0
    assert made.left_s() == 240.0


def test_a_search_that_has_ended_says_of_each_trial_how_it_stood(sweep, sweep_complete):
    made = history([*sweep, sweep_complete])
    assert [(item.codebook_size, item.verdict, item.eligible) for item in made.ranked()] == [
        (64, "best", True),
        (256, "", True),
        (1024, "level [3] collapsed", False),
    ]
    assert made.trials["k64-q8"].objective == 20.5  # that of the chosen depth
    assert made.left_s() is None


def test_a_second_search_starts_afresh(sweep, sweep_complete):
    made = history([*sweep, sweep_complete, sweep[0]])
    assert made.trials == {}
    assert made.complete is None
