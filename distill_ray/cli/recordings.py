"""The table of what was found of recordings, the same from every command that prepares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import Event, Listener

_HEADER = ("", "", "")


class Tables(Protocol):
    """What prints tables: `Display`, `Attended`."""

    def __call__(self, event: Event) -> None: ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None: ...


def show_findings(display: Tables, used: int, rows: Sequence[Sequence[str]]) -> None:
    """Print the table."""
    title = f"Recordings ({used:,} used)"
    display.table(title, _HEADER, rows)


def showing_findings(display: Tables) -> Listener:
    """`display` as a listener that draws the table too."""

    def show(event: Event) -> None:
        if isinstance(event, RecordingsFound):
            show_findings(display, event.used, event.rows)
        else:
            display(event)

    return show
