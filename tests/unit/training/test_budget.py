from __future__ import annotations

import pytest

from distill_ray.training.budget import Budget, Clock


@pytest.mark.parametrize(
    ("epochs", "minutes", "step", "elapsed", "fraction"),
    [
        (4, None, 10, 1e9, 0.25),
        (None, 2.0, 10, 30.0, 0.25),
        (4, 2.0, 10, 60.0, 0.5),
        (4, 2.0, 30, 60.0, 0.75),
        (1, None, 15, 0.0, 1.5),
    ],
)
def test_the_first_to_end_counts(
    epochs: int | None, minutes: float | None, step: int, elapsed: float, fraction: float
) -> None:
    budget = Budget(steps_per_epoch=10, epochs=epochs, max_minutes=minutes)
    assert budget.fraction(step, elapsed) == pytest.approx(fraction)


def test_time_left() -> None:
    timed = Budget(steps_per_epoch=10, epochs=None, max_minutes=1.0)
    assert timed.left_s(1, 2.0, None) == pytest.approx(58.0)
    assert timed.left_s(100, 70.0, 3.0) == 0.0
    counted = Budget(steps_per_epoch=10, epochs=2, max_minutes=None)
    assert counted.left_s(5, 1e9, None) is None
    assert counted.left_s(5, 1e9, 2.0) == pytest.approx(30.0)
    both = Budget(steps_per_epoch=10, epochs=2, max_minutes=1.0)
    assert both.left_s(5, 2.0, 2.0) == pytest.approx(30.0)
    assert both.left_s(5, 50.0, 2.0) == pytest.approx(10.0)


def test_the_clock_goes_on_where_an_earlier_part_ended() -> None:
    clock = Clock(100.0, 40.0)
    assert 100.0 <= clock.elapsed() < 101.0
    assert clock.training() == 40.0
    clock.resume()
    clock.pause()
    assert 40.0 <= clock.training() < 41.0


def test_it_can_be_said() -> None:
    said = [
        str(Budget(steps_per_epoch=5, epochs=epochs, max_minutes=minutes))
        for epochs, minutes in ((1, None), (None, 2.5), (3, 1.0), (434, 0.339194))
    ]
    assert said == ["1 epoch", "2.5 minutes", "3 epochs or 1 minute", "434 epochs or 0.339 minutes"]
