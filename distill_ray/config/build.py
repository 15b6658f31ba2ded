"""Sections made of settings by dotted key; every problem of all of them is raised at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, cast

from distill_ray.config.catalogue import all_settings, settings_of
from distill_ray.config.setting import Section
from distill_ray.errors import ConfigError, Problem

SectionT = TypeVar("SectionT", bound=Section)


class Sections:
    """Sections by their class."""

    def __init__(self, parts: Mapping[type[Section], Section]) -> None:
        self._parts = parts

    def __getitem__(self, section: type[SectionT]) -> SectionT:
        return cast(SectionT, self._parts[section])


def build_sections(
    sections: Iterable[type[Section]], values: Mapping[str, object], problems: Iterable[Problem] = ()
) -> Sections:
    """The `sections` of `values` by dotted key; what is left out has its default, other tables are ignored.

    Raises ConfigError with every problem, beginning with the `problems` found before.
    """
    found, parts = list(problems), {}
    for section in sections:
        own = {setting.name: setting.key for setting in settings_of(section)}
        try:
            parts[section] = section(**{name: values[key] for name, key in own.items() if key in values})
        except ConfigError as error:
            found += error.problems
    if found:
        raise ConfigError(found)
    return Sections(parts)


def unknown_keys(values: Mapping[str, object]) -> Iterator[Problem]:
    """Keys that no section has. One file may hold the settings of every stage; each takes its own."""
    known = [setting.key for setting in all_settings()]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            yield Problem(key, "no such setting" + (f"; did you mean {close[0]}?" if close else ""))
