"""Folders that distill-ray has written, known by what lies in them: results never become recordings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from distill_ray.storage.atomic import temporary_beside

MARKER = ".distill-ray"
"""Lies in a folder that was made for sounds and has no other file that only we write."""
_MARKER_TEXT = "distill-ray made this folder: what is in it is never taken for a recording.\n"
KNOWN_BY = frozenset({MARKER, "distill-corpus.json", "run.toml", "sweep.toml", "pipeline.json"})


def make_marked_folder(folder: Path) -> None:
    """Make `folder`, with a marker where it was not there; a folder of the user's stays as it is.

    Raises OSError.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = temporary_beside(folder)
    new.mkdir()
    handle = os.open(new / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(_MARKER_TEXT)
    try:
        new.rename(folder)  # with its marker, or not at all
    except OSError:
        shutil.rmtree(new)
        if not folder.is_dir():  # another process has made it
            raise


def is_ours(names: Collection[str]) -> bool:
    """Whether a folder that holds files of these names was written by distill-ray."""
    return not KNOWN_BY.isdisjoint(names)
