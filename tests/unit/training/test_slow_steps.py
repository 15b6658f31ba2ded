"""When a run is told that its steps have become slow."""

from __future__ import annotations

import os

import pytest

from distill_ray.events.records import Notice
from distill_ray.training.slow_steps import SlowSteps


def notices(watch: SlowSteps, *paces: tuple[int, float]) -> list[tuple[int, Notice]]:
    """What is said, and after how many steps, of `count` steps of so many seconds each, one after another."""
    found, step, now = [], 0, 0.0
    for count, seconds in paces:
        for _ in range(count):
            step, now = step + 1, now + seconds
            if (notice := watch.after_step(now)) is not None:
                found.append((step, notice))
    return found


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    figures = [6.0]
    monkeypatch.setattr(os, "getloadavg", lambda: (figures[0], 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return figures


def test_steps_three_times_as_long_are_told_once_with_the_load(load: list[float]) -> None:
    ((step, notice),) = notices(SlowSteps(on_cpu=True), (200, 0.1), (40, 0.4), (100, 0.1), (100, 0.9))
    assert 200 < step <= 240
    assert notice.level == "warning"
    assert "steps took 4.0 × as long" in notice.message
    assert "load 6.0 on 2 cores" in notice.message


def test_a_pace_that_wavers_is_nothing_to_tell(load: list[float]) -> None:
    assert notices(SlowSteps(on_cpu=True), (200, 0.1), (100, 0.25), (200, 0.1)) == []


def test_slow_first_steps_are_no_measure(load: list[float]) -> None:
    assert notices(SlowSteps(on_cpu=True), (3, 20.0), (200, 0.1), (1, 3.0), (100, 0.1)) == []


def test_without_load_the_machine_itself_is_named_and_a_gpu_is_not_blamed(load: list[float]) -> None:
    load[0] = 0.5
    paces = ((200, 0.1), (100, 0.5))
    ((_, notice),) = notices(SlowSteps(on_cpu=True), *paces)
    assert "does not explain it" in notice.message
    assert notices(SlowSteps(on_cpu=False), *paces) == []  # discriminators may have begun to take part
    load[0] = 9.0
    assert len(notices(SlowSteps(on_cpu=False), *paces)) == 1
