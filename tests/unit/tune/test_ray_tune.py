from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from distill_ray.tune.ray_tune import CooperativeAsha


def test_asha_asks_the_lagging_trials_of_the_first_round_to_stop_and_ends_none() -> None:
    asked: list[str] = []
    attendant: Any = SimpleNamespace(prune=asked.append)
    scheduler = CooperativeAsha(attendant, grace_period=2)
    scheduler.set_search_properties("objective", "min")
    trials = {
        name: SimpleNamespace(
            trial_id=name, config={"task": SimpleNamespace(trial=name, compared=name != "final")}
        )
        for name in ("good", "fair", "bad", "late", "final")
    }
    objectives = {"good": 1.0, "fair": 2.0, "bad": 9.0, "late": 8.0, "final": 99.0}
    for name, trial in trials.items():
        scheduler.on_trial_add(None, trial)
        for epoch in (1, 2, 3):
            result = {
                "trial": name,
                "epoch": epoch,
                "objective": objectives[name],
                "training_iteration": epoch,
            }
            assert scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
            if epoch == 1:
                assert name not in asked  # nothing is compared before the grace period is over
        scheduler.on_trial_complete(None, trial, {"done": True})
    assert asked == ["fair", "bad", "late"]
