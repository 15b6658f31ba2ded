"""What `evaluate` prints."""

from __future__ import annotations

import pytest

from distill_ray.cli.evaluate import judgement_table
from distill_ray.display.tables import as_lines

ROWS: list[tuple[object, ...]] = [
    ("Fréchet distance", 14.04, 10.61, "9.30 to 12.29", 1.324, 15.39),
    ("  modulation", 1.425, 2.016, "15.18 to 23.65", 0.707, 3.063),
    ("kernel", 0.4983, None, "", 0.02843, 0.503),
]


@pytest.mark.parametrize(("columns", "gone"), [(80, set()), (60, {"halves", "held out"})])
def test_a_narrow_terminal_gets_fewer_measures_in_whole_words(
    monkeypatch: pytest.MonkeyPatch, columns: int, gone: set[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = as_lines([judgement_table("Generated", ROWS)])
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert all(word in text for word in ("modulation", "15.18 to 23.65", "Fréchet distance", "0.4983"))
    assert {name for name in ("value", "ratio", "halves", "held out") if name not in text} == gone
