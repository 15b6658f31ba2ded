"""Strict reading of the JSON documents in `.distill` and codes files (`format.py`, `generate/codes.py`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from distill_ray.config.setting import Section
from distill_ray.errors import BundleError, ConfigError

SectionT = TypeVar("SectionT", bound=Section)


class Fields:
    """One object of a document, read key by key; raises BundleError naming the key that is wrong."""

    def __init__(self, document: Mapping[str, Any], where: Path, prefix: str) -> None:
        self._document = document
        self._where = where
        self._prefix = prefix

    def refuse(self, key: str, problem: str) -> NoReturn:
        raise BundleError(f"{self._where} is not usable: {self._prefix}{key} {problem}")

    def value(self, key: str, kind: type | tuple[type, ...], spoken: str) -> Any:
        if key not in self._document:
            self.refuse(key, "is missing")
        value = self._document[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(key, f"is not {spoken}")
        return value

    def number(self, key: str) -> float:
        value = self.value(key, (int, float), "a number")
        try:
            number = float(value)
        except OverflowError:  # JSON has whole numbers of any length
            number = math.inf
        if not math.isfinite(number):
            self.refuse(key, "is not a finite number")
        return number

    def sha256(self, key: str) -> str:
        value: str = self.value(key, str, "a sha256")
        if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            self.refuse(key, "is not a sha256")
        return value

    def child(self, key: str) -> Fields:
        return Fields(self.value(key, dict, "an object"), self._where, f"{self._prefix}{key}.")

    def section(
        self, key: str, section: type[SectionT], *, before: Mapping[str, object] | None = None
    ) -> SectionT:
        """A config. Settings that the file lacks are as in `before`, which says what files meant that were
        written before the setting existed, or else take their defaults, which then must not change that;
        settings that this version lacks are refused.
        """
        table = {**(before or {}), **self.value(key, dict, "an object")}
        unknown = sorted(set(table) - {field.name for field in dataclasses.fields(section)})
        if unknown:
            self.refuse(
                key, f"has the unknown setting {unknown[0]!r}; use the distill-ray that wrote the file"
            )
        try:
            return section(**table)
        except (ConfigError, OverflowError) as error:  # OverflowError: a whole number beyond any float
            raise BundleError(f"{self._where} is not usable: {key} is out of range ({error})") from error
