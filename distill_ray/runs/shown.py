"""What the summaries of runs and searches show of their settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from distill_ray.events.records import ShownSetting

_UNCLEAR = ("stop",)  # names that say nothing without their table


def shown_settings(values: Mapping[str, object], source: Callable[[str], str]) -> tuple[ShownSetting, ...]:
    """The rows of `values` by dotted key, as far as they have one; `source` is that of a key.

    A setting goes by its name, or by its whole key where another of the table has the same name.
    """
    rows = {key: value for key, value in values.items() if value not in (None, ())}
    names = Counter(_name(key) for key in rows)
    return tuple(
        ShownSetting(
            name=key if names[_name(key)] > 1 or _name(key) in _UNCLEAR else _name(key),
            value=_text(value),
            source=source(key),
        )
        for key, value in rows.items()
    )


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
