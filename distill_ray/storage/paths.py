"""Paths as users give them: str or PathLike, with `~` for the home folder."""

from __future__ import annotations

import os
from pathlib import Path

AnyPath = str | os.PathLike[str]


def as_path(path: AnyPath) -> Path:
    """`path` with a leading `~` expanded; a `~user` that nobody is stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)
