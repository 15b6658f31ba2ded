"""What is said of recordings before a run begins; an event like those of `records.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RecordingsFound:
    """What somebody should know of recordings, as rows: ("left out", "a.wav", "it is empty")."""

    used: int
    rows: tuple[tuple[str, ...], ...]
