"""Durations, budgets and waits go by a clock that nobody sets: the wall clock may go back."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from distill_ray.training.budget import Budget, Clock

ROOT = Path(__file__).parents[2] / "distill_ray"
WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
# Records say when they were written, and the cache when a shard was last used.
ASKS = {
    "display/log.py": {"time.time"},
    "runs/samples.py": {"time.time"},
    "corpus/cache.py": {"time.time_ns"},
}


def wall_clocks(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    calls = (ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call))
    return {call for call in calls if ".".join(call.split(".")[-2:]) in WALL}


def test_the_wall_clock_is_asked_only_for_what_people_read() -> None:
    found = {str(path.relative_to(ROOT)): wall_clocks(path) for path in ROOT.rglob("*.py")}
    assert {name: calls for name, calls in found.items() if calls} == ASKS


def test_a_run_lasts_as_long_as_it_does_whatever_the_wall_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: -1e9)
    clock = Clock(elapsed_s=50.0, training_s=20.0)
    clock.resume()
    assert 50.0 <= clock.elapsed() < 60.0
    assert 20.0 <= clock.training() < 30.0
    budget = Budget(steps_per_epoch=1, epochs=None, max_minutes=1.0)
    assert 0.8 < budget.fraction(1, clock.elapsed()) <= 1.0
    left = budget.left_s(1, clock.elapsed(), None)
    assert left is not None
    assert 0.0 <= left <= 10.0
