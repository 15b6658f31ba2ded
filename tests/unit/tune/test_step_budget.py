"""Equal steps for all trials of a search that has so many minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.config.sweep import SweepConfig
from distill_ray.tune.rounds import spread
from distill_ray.tune.step_budget import Settled, StepBudget, read_settled, write_settled
from distill_ray.tune.trial import make_spec


class World:
    """A search of two trials at a time, each with its own seconds a step; both begin 10 s after it."""

    def __init__(self, minutes: float, *paces: float, per_epoch: int = 20) -> None:
        self.now = 0.0
        self.paces = {f"t{number}": pace for number, pace in enumerate(paces)}
        self.per_epoch = per_epoch
        sweep = SweepConfig(codebook_sizes=(64, 128, 256, 512, 1024), max_minutes=minutes)
        self.budget = StepBudget(sweep=sweep, concurrent=2, ends_at=60.0 * minutes, clock=lambda: self.now)
        self.budget.begin()
        self.steps = dict.fromkeys(self.paces, 0)
        self.told: list[int] = []

    def go(self, seconds: float, *, held: int = 6) -> None:
        """So much time passes; as long as nothing was told, trials make `held` steps at most."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            for trial, pace in self.paces.items():
                made = int(max(0.0, self.now - 10.0) / pace)
                self.steps[trial] = min(made, self.told[-1]) if self.told else min(made, held)
                if self.steps[trial]:
                    event = {"step": self.steps[trial], "steps_per_epoch": self.per_epoch}
                    self.budget.hear(trial, event)
            news = self.budget.news(self.paces, ended=0)
            if news is not None:
                self.told.append(news.steps)


def test_the_slower_of_two_devices_decides_how_many_steps_all_make() -> None:
    world = World(10.0, 0.5, 1.0)
    world.go(12.0)
    assert world.told == []  # the slower one has shown too little
    world.go(6.0)
    # Four waves (three of five trials, one of two finalists) in 600 s: 141 s each, of which 10 to begin.
    assert world.told[-1] == pytest.approx(131, rel=0.08)
    world.go(120.0)
    assert world.budget.settled is not None
    settled = world.told[-1]
    assert world.budget.settled == Settled(steps=settled, trials=5)
    assert world.budget.notice() is None
    world.go(60.0)
    assert world.told[-1] == settled


def test_a_small_budget_trains_fewer_trials_and_says_so() -> None:
    world = World(3.0, 0.5, 1.0)
    world.go(60.0)
    assert world.budget.settled is not None
    assert world.budget.settled.trials == 4  # three waves instead of four
    notice = world.budget.notice()
    assert notice is not None
    assert notice.message.startswith(
        "the search's 3 min are too short for 5 trials of 2 epochs: 4 are trained, for "
    )
    assert 2 * 20 <= world.budget.settled.steps <= 85


def test_a_budget_below_one_epoch_says_that_it_tells_little() -> None:
    world = World(2.0, 0.5, 1.0, per_epoch=400)
    world.go(100.0)
    notice = world.budget.notice()
    assert notice is not None
    assert "hardly tells codecs apart" in notice.message


def test_what_was_settled_holds_for_a_resumed_search(tmp_path: Path) -> None:
    assert read_settled(tmp_path) is None
    write_settled(tmp_path, Settled(steps=120, trials=3))
    found = read_settled(tmp_path)
    assert found == Settled(steps=120, trials=3)
    (tmp_path / "rounds.json").write_text('{"steps": "many"}')
    assert read_settled(tmp_path) is None
    sweep = SweepConfig(max_minutes=5.0)
    budget = StepBudget(sweep=sweep, concurrent=2, ends_at=9.0, settled=found)
    assert budget.news((), ended=0) == found
    assert budget.news((), ended=1) is None


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_however_many_trials_run_they_lie_evenly(count: int) -> None:
    specs = tuple(make_spec("search", 2**number, (2,), {}) for number in range(5, 5 + count))
    order = [specs.index(spec) for spec in spread(specs)]
    assert sorted(order) == list(range(count))
    assert order[0] == count - 1
    if count == 5:
        assert order == [4, 0, 2, 1, 3]


def test_trials_that_wait_with_nothing_but_one_moment_known_are_told_and_corrected() -> None:
    """On a GPU ten steps are issued in an instant, and both moments arrive at once."""
    world = World(10.0, 0.5, 1.0)
    world.now = 20.0
    for trial in world.paces:
        for step in (1, 10):
            world.budget.hear(trial, {"step": step, "steps_per_epoch": 20})
    world.now = 25.0
    assert world.budget.news(world.paces, ended=0) is None
    world.now = 30.5
    news = world.budget.news(world.paces, ended=0)
    assert news is not None
    assert news.steps > 1000  # corrected before anyone gets there
    world.told.append(news.steps)
    world.go(60.0)
    assert world.told[-1] == pytest.approx(131, rel=0.1)
