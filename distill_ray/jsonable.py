"""JSON out and in: what is written for programs and what is read of others. Standard library only."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_ray.uri import redacted

MOST_DEPTH = 100
"""How deep lists and objects may be nested in what is read; ours are nested nine deep."""


def parse_json(text: str | bytes) -> Any:
    """The value that JSON text holds. Raises ValueError where it is none, or nested too deep to work with."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level, depth = [value], 0
    while level:
        if depth > MOST_DEPTH:
            raise ValueError("it is nested too deep")
        level, depth = [inner for outer in level for inner in _containers(outer)], depth + 1
    return value


def _containers(value: Any) -> Iterable[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (item for item in inside if isinstance(item, dict | list))


def jsonable(value: Any, *, as_text: bool = False) -> Any:
    """`value` in JSON's types: dataclasses and mappings as objects, sequences as lists, paths as text,
    all without the credentials of URIs.

    NaN and infinities, which JSON does not have, become null, or with `as_text` "nan", "inf" and "-inf",
    as events and records of trials are read. Raises TypeError for a value of another type.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value) if as_text else None
    if isinstance(value, Path):
        return redacted(str(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value), as_text=as_text)
    if isinstance(value, Mapping):
        return {redacted(str(key)): jsonable(item, as_text=as_text) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [jsonable(item, as_text=as_text) for item in value]
    raise TypeError(f"{type(value).__name__} has no place in a JSON document")
