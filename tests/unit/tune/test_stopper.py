from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest

from distill_ray.vqvae.health import Collapse, EpochHealth, HealthRule, LevelHealth

RULE = HealthRule(measure="utilization", floor=0.3, patience=2, warmup=1)


def level(utilization: float) -> LevelHealth:
    return LevelHealth(utilization=utilization, perplexity=1.0, dead_codes=0, entropy=1.0)


def report(epoch: int, utilization: float, trial: str = "a", *, measured: bool = True) -> dict[str, Any]:
    health = [asdict(level(utilization))]
    return {"trial": trial, "epoch": epoch, "measured": measured, "health": health}


def epoch(utilization: float, *, measured: bool = True) -> EpochHealth:
    return EpochHealth(levels=(level(utilization),), measured=measured)


class Guard:
    """A stopper with what it said."""

    def __init__(
        self, *before: float, rule: HealthRule | None = RULE, epochs: Sequence[EpochHealth] = ()
    ) -> None:
        from distill_ray.tune.stopper import HealthStopper

        self.said: list[tuple[str, Collapse]] = []
        self.aborted = False
        self.stopper = HealthStopper(
            rule,
            before=lambda trial: [*epochs, *map(epoch, before)] if trial == "a" else [],
            on_collapse=lambda trial, collapse: self.said.append((trial, collapse)),
            is_aborted=lambda: self.aborted,
        )

    def hears(self, *reports: dict[str, Any]) -> list[bool]:
        return [self.stopper("tune's own id", item) for item in reports]


def test_the_loop_has_one_report_to_stop_by_itself() -> None:
    guard = Guard()
    # Epochs 2 and 3 are low after the warm-up, so a loop that obeys makes no fourth report.
    values = [0.1, 0.2, 0.1, 0.15, 0.9]
    ended = guard.hears(*(report(epoch, value) for epoch, value in enumerate(values, start=1)))
    assert RULE.judge([(level(value),) for value in values[:3]]) is not None
    assert ended == [False, False, False, True, True]
    assert guard.said[0] == (
        "a",
        Collapse(level=0, value=0.1, reports=2, measure="utilization", floor=0.3),
    )


def test_tunes_repetition_of_the_last_report_is_no_report() -> None:
    guard = Guard()
    last = report(3, 0.1)
    assert guard.hears(report(1, 0.1), report(2, 0.1), last, last, last) == [False] * 5


def test_epochs_before_a_resume_count_and_those_after_its_checkpoint_do_not() -> None:
    assert Guard(0.9, 0.1, 0.1).hears(report(4, 0.1)) == [True]
    # It went on from the checkpoint of epoch 1: epochs 2 and 3 were never saved, and are made again.
    guard = Guard(0.9)
    assert guard.hears(report(2, 0.1), report(2, 0.1), report(3, 0.8), report(4, 0.1)) == [False] * 4


def test_epochs_too_short_to_measure_count_neither_before_a_resume_nor_after() -> None:
    # The warm-up takes the first measured epoch, 2: of those after it only 4 is measured, and then 5.
    guard = Guard()
    short = [report(number, 0.1, measured=False) for number in (1, 3)]
    first, second = (report(number, 0.1) for number in (2, 4))
    assert guard.hears(short[0], first, short[1], second) == [False] * 4
    assert guard.hears(report(5, 0.1), report(6, 0.1)) == [False, True]
    resumed = Guard(epochs=[epoch(0.1, measured=number not in (1, 3)) for number in (1, 2, 3, 4)])
    assert resumed.hears(report(5, 0.1), report(6, 0.1)) == [False, True]


def test_trials_are_judged_apart() -> None:
    guard = Guard(0.1, 0.1, 0.1)
    assert guard.hears(report(1, 0.1, "b"), report(4, 0.1, "a"), report(2, 0.1, "b")) == [False, True, False]
    assert [trial for trial, _ in guard.said] == ["a"]


@pytest.mark.parametrize("rule", [None, RULE])
def test_what_cannot_be_judged_goes_on(rule: HealthRule | None) -> None:
    guard = Guard(0.1, 0.1, 0.1, rule=rule)
    assert guard.hears({"trial_id": "x", "done": True}) == [False]
    assert guard.hears(report(4, 0.1)) == [rule is not None]


def test_all_end_after_an_abort() -> None:
    guard = Guard()
    assert guard.stopper.stop_all() is False
    guard.aborted = True
    assert guard.stopper.stop_all() is True
