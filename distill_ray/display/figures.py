"""How numbers read in the live view, the plain lines and the report; standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping

from distill_ray.events.records import PriorStepMetrics, VQStepMetrics
from distill_ray.vqvae.health import LevelHealth

# What the colours of a level's utilization say where there is no colour.
STATES = {"green": "good", "yellow": "fair", "red": "low"}


def duration(seconds: float | None) -> str:
    """ "7 s", "3:05", "2:03:05"; a dash where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def budget(minutes: float) -> str:
    """ "30 s", "2 min 30 s", "90 min": minutes as they are given, and seconds in place of their fractions."""
    whole, seconds = divmod(max(0, round(60 * minutes)), 60)
    parts = [f"{whole:,} min"] if whole else []
    return " ".join([*parts, f"{seconds} s"] if seconds or not whole else parts)


def number(value: float) -> str:
    """Four significant digits, thousands with commas, never an exponent for what a person compares."""
    value = float(value)  # a log's NaN arrives as text
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def percent(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) else "–"


def count(amount: int, noun: str) -> str:
    """ "1 file", "1,200 files"."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def losses(values: Mapping[str, float]) -> str:
    """Those that are at work: a term that is switched off is 0."""
    return "  ".join(f"{name} {number(value)}" for name, value in values.items() if value != 0)


def throughput(event: VQStepMetrics | PriorStepMetrics) -> str:
    if isinstance(event, VQStepMetrics):
        return f"{number(event.audio_seconds_per_second)} audio-s/s"
    return f"{number(event.codes_per_second)} codes/s"


def worst_level(health: tuple[LevelHealth, ...]) -> str:
    """ "worst level 2: 41% used"; empty without levels."""
    if not health:
        return ""
    level = min(range(len(health)), key=lambda index: health[index].utilization)
    return f"worst level {level}: {percent(health[level].utilization)} used"
