"""The paths and URIs among a command's arguments, before the command does, stores or sends anything: `~` is
the home folder in all of them, and a URI must be usable.

A shell expands `~` only at the beginning of a word, so `--out=~/x` arrives as it was written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_ray.errors import UsageError
from distill_ray.storage.paths import as_path
from distill_ray.uri import is_uri, parse_uri, shown_uri

# Addresses of clusters have their own check; pip's requirements, variables and a job's words go on as they
# are, and a name is no place.
_OTHERS = ("address", "env", "pip", "words", "name")


def expanded(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `~` expanded in every path; what is checked is checked after it."""
    return {name: value if name in _OTHERS else _expanded(value) for name, value in values.items()}


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    if isinstance(value, Path):
        return as_path(value)
    return str(as_path(value)) if isinstance(value, str) and value.startswith("~") else value


def check_places(values: Mapping[str, Any]) -> None:
    """Raise UsageError where a parameter holds a URI that cannot be used, as one with credentials in it."""
    for name, value in values.items():
        if name not in _OTHERS:
            for each in value if isinstance(value, list | tuple) else (value,):
                if isinstance(each, str | os.PathLike) and is_uri(each):
                    _check(each)


def _check(place: str | os.PathLike[str]) -> None:
    text = os.fspath(place)
    if not isinstance(place, str):
        raise UsageError(f"{shown_uri(text)} is a URI and no file of this machine; fetch it first")
    try:
        parse_uri(text)
    except ValueError as error:
        raise UsageError(f"{shown_uri(text)} {error}") from None
