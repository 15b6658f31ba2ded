"""TOML in and out: nested tables against dotted keys ("model.codebook_size")."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from distill_ray.errors import UsageError


def read_toml(path: Path) -> dict[str, object]:
    """The settings of a file by dotted key; lists become tuples.

    Raises UsageError where the file is missing or is not TOML.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read ({error.strerror}); give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not valid TOML: {error}") from error
    return dict(_flatten(tables, ""))


def _flatten(table: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, tuple(value) if isinstance(value, list) else value))
    return rows


def write_toml(values: Mapping[str, object], notes: Mapping[str, str]) -> str:
    """TOML text of dotted keys, one table a prefix; `notes` become comments; None is left out."""
    tables: dict[str, list[str]] = {}
    for key, value in values.items():
        if value is None:
            continue
        table, _, name = key.rpartition(".")
        note = f"  # {notes[key]}" if key in notes else ""
        tables.setdefault(table, []).append(f"{name} = {_literal(value)}{note}")
    return "\n\n".join("\n".join([f"[{table}]", *lines]) for table, lines in tables.items()) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_literal(item) for item in value)}]"
    # JSON's booleans, numbers and escaped strings are TOML's too.
    return json.dumps(value, ensure_ascii=False)
