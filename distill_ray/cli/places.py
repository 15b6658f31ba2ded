"""The URIs among a command's arguments, checked before the command does, stores or sends anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from distill_ray.errors import UsageError
from distill_ray.uri import is_uri, parse_uri, shown_uri

# Addresses of clusters have their own check; pip's requirements and variables go to the job as they are.
_OTHERS = ("address", "env", "pip", "words")


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
