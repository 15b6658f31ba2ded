"""Values as strict JSON has them: what is written for programs goes through here. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_ray.uri import redacted


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
