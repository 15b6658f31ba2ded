"""Declarative settings: one line a field says its default, range, flag and what it means.

A config section is a frozen keyword-only dataclass whose fields are made by `setting` and which derives
from `Section`: constructing it checks every field and raises one `ConfigError` with all problems. Options of
commands, keys of TOML files and the reference of all settings are made of these lines (`catalogue.py`).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from distill_ray.errors import ConfigError, Problem


def setting(
    default: Any,
    help: str,  # noqa: A002 - the word that Typer uses
    *,
    flag: str | None = None,
    auto: bool = False,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    replaces: str | None = None,
    run_flag: str | None = None,
    run_default: Any = None,
) -> Any:
    """A dataclass field with its meaning, its flag and its range (`low` and `high` inclusive, `above` not).

    flag: the option of every command that takes the section; "--on/--off" for a switch. auto: where the user
    gives no value, one is chosen from the data or the machine instead of the default. replaces: the key of
    the setting that a command does not take where it takes this one. run_flag, run_default: flag and default
    in `distill-ray run`, where settings of all stages meet; settings with the same flag there get one value.
    """
    meta = {
        "help": help,
        "flag": flag,
        "auto": auto,
        "low": low,
        "high": high,
        "above": above,
        "choices": choices,
        "replaces": replaces,
        "run_flag": run_flag,
        "run_default": run_default,
    }
    return dataclasses.field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of the TOML file; subclasses name it in `table` and may extend `cross_checks`."""

    table: ClassVar[str]

    def __post_init__(self) -> None:
        problems = list(self._field_problems())
        if not problems:  # relations between fields make sense only where each field does
            problems = list(self.cross_checks())
        if problems:
            raise ConfigError(problems)

    def cross_checks(self) -> Iterator[Problem]:
        """Problems between fields; called once every single field is in range."""
        return iter(())

    def problem(self, name: str, message: str) -> Problem:
        """A `Problem` with the key and flag of field `name`."""
        return Problem(f"{self.table}.{name}", message, type(self).flag(name))

    @classmethod
    def flag(cls, name: str) -> str | None:
        """The command-line flag of field `name`, if it has one; of a switch the one that turns it on."""
        flag: str | None = cls.__dataclass_fields__[name].metadata.get("flag")
        return flag and flag.partition("/")[0]

    def _field_problems(self) -> Iterator[Problem]:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, meta = getattr(self, field.name), field.metadata
            wrong = _type_problem(value, hints[field.name])
            if wrong:
                yield self.problem(field.name, wrong)
            elif value is not None and not isinstance(value, bool | str | tuple):
                wrong = _range_problem(value, meta)
                if wrong:
                    yield self.problem(field.name, wrong)
            elif isinstance(value, str) and meta.get("choices") and value not in meta["choices"]:
                yield self.problem(field.name, f"{value!r} is not one of {', '.join(meta['choices'])}")


_BEYOND_ANY = 1 << 63  # also what has no float


def _range_problem(value: float, meta: Any) -> str | None:
    if not math.isfinite(value):
        return f"{value} is not a finite number"
    low, high, above = meta.get("low"), meta.get("high"), meta.get("above")
    if low is not None and value < low:
        return f"{value} is below the least allowed value {low}"
    if above is not None and value <= above:
        return f"{value} must be greater than {above}"
    if high is not None and value > high:
        return f"{value} is above the greatest allowed value {high}"
    return None


def _type_problem(value: Any, hint: Any) -> str | None:
    if _fits(value, hint):
        return None
    shown = repr(value)
    return f"{shown if len(shown) <= 100 else f'{shown[:99]}…'} is not {_spoken(hint)}"


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(item, inner) for item in value)
    if hint is float:
        return isinstance(value, float) or _fits(value, int)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BEYOND_ANY
    return isinstance(value, hint)


def _spoken(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_spoken(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list of {_spoken(typing.get_args(hint)[0])[2:].strip()}s"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return "nothing" if hint is type(None) else names[hint]
