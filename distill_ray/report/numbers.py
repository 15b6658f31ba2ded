"""Numbers as the page shows them."""

from __future__ import annotations

import math

MISSING = "–"


def number(value: object) -> str:
    """Four significant digits; whole numbers with separators, text as it is, a dash for nothing."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def percent(share: float | None) -> str:
    """ "37.5 %", "100 %"."""
    return MISSING if share is None else f"{100 * share:.1f}".removesuffix(".0") + "\u00a0%"


def duration(seconds: float) -> str:
    """ "48 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def count(amount: int, noun: str) -> str:
    """ "1 file", "3 files"."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def moment(seconds: float) -> str:
    """A place in a recording: "0:07.4", "12:03.0"."""
    minutes, rest = divmod(max(0, round(10 * seconds)), 600)
    return f"{minutes}:{rest / 10:04.1f}"


def short_path(path: str) -> str:
    """The folder and the name, as far as there are."""
    return "/".join(path.rsplit("/", 2)[-2:])
