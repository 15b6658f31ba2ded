from __future__ import annotations

import math

import pytest

from distill_ray.display import figures
from distill_ray.vqvae.health import LevelHealth


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (185, "3:05"),
        (7385, "2:03:05"),
        (None, "–"),
        (math.inf, "–"),
    ],
)
def test_durations_read_as_clock_times(seconds, text):
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (123.456, "123.5"), (12345.6, "12,346"), (1e-5, "1.0e-05"), (math.nan, "nan")],
)
def test_numbers_keep_four_digits(value, text):
    assert figures.number(value) == text


def test_a_number_that_travelled_as_text_is_read():
    assert figures.losses({"mel": "nan", "waveform": 0.5}) == "mel nan  waveform 0.5"


def test_counts_have_a_plural():
    assert figures.count(1, "file") == "1 file"
    assert figures.count(1200, "file") == "1,200 files"


def test_the_worst_level_is_the_least_used_one():
    used = [0.9, 0.2, 0.4]
    health = tuple(LevelHealth(utilization=u, perplexity=1.0, dead_codes=0, entropy=0.5) for u in used)
    assert figures.worst_level(health) == "worst level 1: 20% used"
    assert figures.worst_level(()) == ""


def test_a_budget_below_a_minute_is_in_seconds() -> None:
    shown = [figures.budget(minutes) for minutes in (0.0166667, 0.5, 1.5, 90.0, 1.604)]
    assert shown == ["1 s", "30 s", "1 min 30 s", "90 min", "1 min 36 s"]


def test_terms_that_are_switched_off_are_left_out() -> None:
    assert figures.losses({"mel": 1.25, "codebook": 0.0, "commitment": 0.5}) == "mel 1.25  commitment 0.5"
