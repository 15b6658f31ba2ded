from __future__ import annotations

import math

import pytest

from distill_ray.report.numbers import count, duration, moment, number, percent, short_path


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (1234567, "1,234,567"),
        (12345.6, "12,346"),
        (0.00012345, "0.0001234"),
        (2.0, "2"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (True, "yes"),
        ("text", "text"),
    ],
)
def test_numbers(value: object, shown: str) -> None:
    assert number(value) == shown


def test_shares() -> None:
    assert [percent(share) for share in (None, 0.0, 0.375, 0.9996, 1.0)] == [
        "–",
        "0\u00a0%",
        "37.5\u00a0%",
        "100\u00a0%",
        "100\u00a0%",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.346, "0.346 s"),
        (59.4, "59.4 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_the_rest() -> None:
    assert (count(1, "file"), count(2000, "file")) == ("1 file", "2,000 files")
    assert [moment(at) for at in (7.44, 59.97, 723.0, -1.0)] == ["0:07.4", "1:00.0", "12:03.0", "0:00.0"]
    assert [short_path(path) for path in ("a", "a/b", "/x/a/b.wav")] == ["a", "a/b", "a/b.wav"]
