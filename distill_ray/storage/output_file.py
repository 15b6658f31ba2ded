"""The one rule for files that a command writes where the user says: never over what it reads, and over
what is there only with --overwrite.

`generate/` and `bundle/merge.py` ask it before they work for minutes. Standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path

from distill_ray.errors import UsageError


def check_output(out: Path, *inputs: Path, overwrite: bool, otherwise: str = "choose another path") -> None:
    """Raise UsageError where `out` is one of `inputs`, through links too, is no file, exists and is not to be
    overwritten, or is in a folder that cannot take it.

    otherwise: what the message says to do beside --overwrite.
    """
    target = os.path.realpath(out)
    there = os.path.exists(target)  # noqa: PTH110 - Path.exists raises for a folder that cannot be searched
    for path in inputs:
        if there and path.exists() and out.samefile(path):
            raise UsageError(f"{out} is read by this command and cannot be its output; {otherwise}")
    if there and not out.is_file():
        kind = "a folder" if out.is_dir() else "not a regular file"
        raise UsageError(f"{out} is {kind} and cannot be replaced; give the path of a file")
    if there and not overwrite:
        raise UsageError(f"{out} exists; give --overwrite to replace it, or {otherwise}")
    _check_folder(out, os.path.dirname(target))  # noqa: PTH120


def _check_folder(out: Path, folder: str) -> None:
    """Raise UsageError where `folder`, which is made where it is missing, cannot take a file."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)  # noqa: PTH120
    if not os.path.isdir(folder):  # noqa: PTH112
        raise UsageError(f"{out} cannot be written: {folder} is not a folder; choose another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be written: nothing can be put into {folder}; choose another path")
