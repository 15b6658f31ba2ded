"""Frozen records from dictionaries as they come from others: every field is of its type, or none is had."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

_NOT_FINITE = ("nan", "inf", "-inf")
_MOST = 1 << 63


def built(kind: Any, record: Mapping[str, Any]) -> Any:
    """An instance of the dataclass `kind`; unknown keys are ignored.

    Raises KeyError for a field that is missing, TypeError for one of another type.
    """
    hints = typing.get_type_hints(kind)
    values = {
        item.name: _restore(record[item.name], hints[item.name])
        for item in dataclasses.fields(kind)
        if item.name in record or item.default is dataclasses.MISSING
    }
    return kind(**values)


def _restore(value: Any, hint: Any) -> Any:
    """Raises TypeError for what is not of the type `hint`: whoever draws it relies on that."""
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        if dataclasses.is_dataclass(options[0]) and not isinstance(value, dict):
            return None  # also a sentence, which `collapse` was until 2026-11-30
        return None if value is None else _restore(value, options[0])
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_restore(item, inner) for item in _of_type(value, list | tuple))
    if dataclasses.is_dataclass(hint):
        return built(hint, _of_type(value, dict))
    if origin is dict:
        inner = typing.get_args(hint)[1]
        return {_of_type(key, str): _restore(item, inner) for key, item in _of_type(value, dict).items()}
    if hint is float:
        # NaN and infinities travel as text where a writer has no JSON for them.
        return float(value) if value in _NOT_FINITE else float(_of_type(value, int | float))
    if hint is typing.Any:
        return None if value is None else _of_type(value, str | bool | int | float)
    return _of_type(value, hint)


def _of_type(value: Any, hint: Any) -> Any:
    booleans = hint is bool or bool in typing.get_args(hint)
    if not isinstance(value, hint) or (isinstance(value, bool) and not booleans):
        raise TypeError(f"{str(value)[:40]!r} is not of the type {hint}")
    if isinstance(value, int) and not -_MOST < value < _MOST:
        raise TypeError("a number has too many digits")
    return value
