"""The stopping rule as a pure function: what must hold whatever the reports are."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from distill_ray.config.health import HealthConfig
from distill_ray.vqvae.health import Collapse, HealthRule, LevelHealth

Report = tuple[LevelHealth, ...]


def level(utilization: float, entropy: float | None = None) -> LevelHealth:
    return LevelHealth(
        utilization=utilization,
        perplexity=1.0,
        dead_codes=0,
        entropy=utilization if entropy is None else entropy,
    )


def reports(*rows: tuple[float, ...]) -> list[Report]:
    return [tuple(level(value) for value in row) for row in rows]


def rule(floor: float = 0.3, patience: int = 3, warmup: int = 0, measure: str = "utilization") -> HealthRule:
    return HealthRule(measure=measure, floor=floor, patience=patience, warmup=warmup)


def first_stop(used: HealthRule, history: list[Report]) -> tuple[int, Collapse] | None:
    """After which report a run would have been ended, as the loop asks: after each one."""
    for count in range(len(history) + 1):
        verdict = used.judge(history[:count])
        if verdict is not None:
            return count, verdict
    return None


def histories(count: int, epochs: int = 9, levels: int = 3) -> list[list[Report]]:
    """Random walks around the usual floor, so that streaks begin and break."""
    rng = random.Random(4)
    made = []
    for _ in range(count):
        rows = [tuple(rng.choice([0.1, 0.25, 0.3, 0.6]) for _ in range(levels)) for _ in range(epochs)]
        made.append(reports(*rows))
    return made


GRID = [
    rule(floor, patience, warmup)
    for floor, patience, warmup in itertools.product((0.2, 0.3, 0.7), (1, 2, 3), (0, 1, 3))
]
HISTORIES = histories(60)


def test_the_reason_in_words() -> None:
    low = reports((0.9, 0.9, 0.9, 0.5), *[(0.9, 0.9, 0.9, 0.12)] * 3)
    verdict = rule().judge(low)
    assert verdict == Collapse(level=3, value=0.12, reports=3, measure="utilization", floor=0.3)
    assert verdict.reason == "collapsed level 3: utilization 0.12 < 0.30 for 3 reports"
    close = Collapse(level=0, value=19 / 64, reports=1, measure="entropy", floor=0.3)
    assert close.reason == "collapsed level 0: entropy 0.297 < 0.300 for 1 report"


def test_only_a_streak_after_the_warmup_counts() -> None:
    low, fine = (0.1,), (0.5,)
    assert first_stop(rule(), reports(low, low, low)) is not None
    assert first_stop(rule(), reports(low, low, fine, low, low)) is None
    stopped = first_stop(rule(warmup=2), reports(*[low] * 6))
    assert stopped is not None
    assert stopped[0] == 5
    assert rule(warmup=2).judge(reports(low, low, low, low)) is None
    assert rule().judge([]) is None


def test_exactly_at_the_floor_is_healthy() -> None:
    assert rule(patience=1).judge(reports((0.3,))) is None
    assert rule(patience=1).judge(reports((math.nextafter(0.3, 0.0),))) is not None
    assert rule(floor=0.0, patience=1).judge(reports((0.0,))) is None


def test_the_measure_is_what_is_compared() -> None:
    history = [(level(0.9, entropy=0.1),), (level(0.1, entropy=0.9),)]
    assert rule(patience=1).judge(history[:1]) is None
    verdict = rule(patience=1, measure="entropy").judge(history[:1])
    assert verdict is not None
    assert (verdict.measure, verdict.value) == ("entropy", 0.1)
    assert rule(patience=1, measure="entropy").judge(history) is None


def test_what_was_not_measured_is_no_evidence() -> None:
    assert rule(patience=2).judge(reports((0.1,), (math.nan,))) is None
    assert rule(patience=2).judge(reports((0.1, 0.1), (0.5,), (0.5, 0.1))) is None
    assert rule(patience=2).judge(reports((0.5, 0.1), (0.5, 0.1), ())) is None
    stopped = rule(patience=2).judge(reports((0.5,), (0.5, 0.1), (0.5, 0.1, 0.1)))
    assert stopped is not None
    assert stopped.level == 1


@pytest.mark.parametrize("used", GRID, ids=str)
def test_it_stops_where_a_plain_reading_of_the_definition_says(used: HealthRule) -> None:
    """Checked against every window of reports, written out; some run is stopped and some is not."""
    seen = set()
    for history in HISTORIES:
        expected = None
        for end in range(used.warmup + used.patience, len(history) + 1):
            window = history[end - used.patience : end]
            low = [n for n in range(3) if all(report[n].utilization < used.floor for report in window)]
            if low:
                expected = (end, low[0])
                break
        stopped = first_stop(used, history)
        assert (stopped and (stopped[0], stopped[1].level)) == expected
        seen.add(expected is None)
    assert False in seen


@pytest.mark.parametrize("used", GRID, ids=str)
def test_levels_are_judged_each_for_itself(used: HealthRule) -> None:
    """Another order of the levels stops at the same report, at the level in its first place."""
    for history in HISTORIES:
        stopped = first_stop(used, history)
        for order in itertools.permutations(range(3)):
            turned = first_stop(used, [tuple(report[n] for n in order) for report in history])
            if stopped is None:
                assert turned is None
                continue
            assert turned is not None
            assert turned[0] == stopped[0]
            alone = [first_stop(used, [(report[n],) for report in history[: stopped[0]]]) for n in range(3)]
            assert turned[1].level == min(place for place, n in enumerate(order) if alone[n] is not None)


@pytest.mark.parametrize(
    ("stricter", "milder"),
    [
        (rule(floor=0.7), rule(floor=0.3)),
        (rule(floor=0.3), rule(floor=0.2)),
        (rule(patience=2), rule(patience=3)),
        (rule(warmup=0), rule(warmup=2)),
    ],
)
def test_a_stricter_rule_never_stops_later(stricter: HealthRule, milder: HealthRule) -> None:
    earlier = 0
    for history in HISTORIES:
        late = first_stop(milder, history)
        if late is not None:
            soon = first_stop(stricter, history)
            assert soon is not None
            assert soon[0] <= late[0]
            earlier += soon[0] < late[0]
    assert earlier > 0


def test_the_verdict_depends_on_the_reports_alone() -> None:
    """Not on what was asked before: after a resume only the history is there."""
    used = rule()
    for history in HISTORIES:
        asked = [used.judge(history[:count]) for count in range(10)]
        assert asked == [rule().judge(tuple(history[:count])) for count in range(10)]
        assert asked[::-1] == [used.judge(history[:count]) for count in reversed(range(10))]


def test_it_is_built_from_the_settings() -> None:
    config = HealthConfig(measure="entropy", floor=0.25, patience=4, warmup=1)
    assert HealthRule.of(config) == HealthRule(measure="entropy", floor=0.25, patience=4, warmup=1)


def generation_level(kept: float | None = None, gain: float | None = None) -> LevelHealth:
    return LevelHealth(utilization=1.0, perplexity=1.0, dead_codes=0, entropy=1.0, kept=kept, gain=gain)


def test_codes_that_no_shift_survives_are_ill_however_evenly_they_are_used() -> None:
    """Compression's codes: all in use, and 2 % of them kept at a quarter of a frame."""
    used = HealthRule(measure="utilization", floor=0.3, patience=3, warmup=1, kept_floor=0.1)
    history = [(generation_level(0.6), generation_level(0.02))] * 4
    verdict = used.judge(history)
    assert verdict is not None
    assert verdict.reason == "collapsed level 1: codes kept at ¼ frame 0.02 < 0.10 for 3 reports"
    assert used.judge(history[:3]) is None
    assert used.judge([*history[:3], (generation_level(0.6), generation_level(0.1))]) is None
    assert rule(patience=1).judge(history) is None  # purpose compression has no such floor
    assert used.judge([(generation_level(None),)] * 9) is None


def test_one_measure_does_not_hide_the_streak_of_another() -> None:
    used = HealthRule(measure="utilization", floor=0.3, patience=3, warmup=0, kept_floor=0.1)
    both = LevelHealth(utilization=0.1, perplexity=1.0, dead_codes=0, entropy=1.0, kept=0.05)
    verdict = used.judge([(generation_level(0.05),), (generation_level(0.05),), (both,)])
    assert verdict is not None
    assert (verdict.measure, verdict.reports) == ("codes kept at ¼ frame", 3)


def test_a_level_of_which_a_prior_learns_nothing_is_ill() -> None:
    used = HealthRule(measure="utilization", floor=0.3, patience=3, warmup=0, gain_floor=0.02)
    low = used.low(generation_level(gain=-0.01))
    assert low is not None
    assert low.words == "prior's gain -0.01 < 0.02"
    assert used.low(generation_level(gain=0.02)) is None
    assert used.low_gain(0.019) is not None
    assert used.low_gain(0.02) is None
