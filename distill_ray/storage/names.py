"""The one check of names that others chose: objects of a store, entries of a manifest, ids of jobs.

Whatever turns such a name into a path asks here first. `storage.py` does so for every name that it lists or
is given. Standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from distill_ray.errors import DistillError, UsageError

_DRIVE = re.compile(r"[A-Za-z]:")
# Controls, halves of a surrogate pair (no UTF-8), and what ends a line without being a control.
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


def fault_of(name: object, *, folders: bool = True) -> str | None:
    """What keeps `name` from being a relative path below a folder, as half a sentence; None where it is one.

    folders: whether `/` may divide it; without, it is the name of one file.
    """
    if not isinstance(name, str):
        return "it is no text"
    parts = name.split("/")
    if not name:
        return "it is empty"
    if name.startswith("/") or _DRIVE.match(name):
        return "it is no relative path"
    if "\\" in name or any(unicodedata.category(character) in _UNPRINTABLE for character in name):
        return "a control character or backslash is in it"
    if len(parts) > 1 and not folders:
        return "it is a path"
    if ".." in parts or "." in parts or "" in parts:
        return "a part of it is empty, . or .."
    return None


def checked_name(
    name: object, *, origin: str, folders: bool = True, error: type[DistillError] = UsageError
) -> str:
    """`name`, which is safe to put behind a folder. Raises `error`, which calls its place `origin`."""
    fault = fault_of(name, folders=folders)
    if fault is not None or not isinstance(name, str):
        raise error(
            f"{origin} holds the name {shown_name(name)}, which cannot be used: {fault}; "
            "rename or remove it there"
        )
    return name


def path_below(folder: Path, name: str, *, origin: str, error: type[DistillError] = UsageError) -> Path:
    """`folder`/`name`. Raises `error` as `checked_name` does, and where a folder between is a link."""
    path = folder / checked_name(name, origin=origin, error=error)
    for parent in path.parents:
        if parent == folder:
            break
        if parent.is_symlink():
            raise error(
                f"{parent} is a link and would be followed to reach {name}; "
                "remove it or choose another folder"
            )
    return path


def shown_name(name: object) -> str:
    """The name for a message: quoted, with escapes for what cannot be printed, and not too long."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:117]}…"
