"""TOML in and out: nested tables against dotted keys ("model.codebook_size")."""

from __future__ import annotations

import errno
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from distill_ray.errors import UsageError
from distill_ray.regular_file import read_regular

_MOST_BYTES = 1 << 20
# Keys of many parts: tomllib takes their square in time, ours have two.
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{32}}")


def read_toml(path: Path, *, recorded: bool = False) -> dict[str, object]:
    """The settings of a file by dotted key; lists become tuples.

    recorded: it is the file of a run or search and not one that the user gave to --config, which may be a
    pipe. Raises UsageError where the file is missing or is not TOML.
    """
    shown = str(path) if recorded else f"--config {path}"
    try:
        content = read_regular(path, _MOST_BYTES) if recorded else _read(path)
        text = content.decode()
        if _LONG_KEY.search(text):
            raise RecursionError
        return dict(_flatten(tomllib.loads(text), ""))
    except OSError as error:
        raise UsageError(f"{shown} cannot be read ({error.strerror}); give a TOML file") from error
    except RecursionError:
        raise UsageError(f"{shown} is nested too deep; give a TOML file of tables with settings") from None
    except ValueError as error:  # of TOML, of UTF-8, and of numbers with thousands of digits
        raise UsageError(f"{shown} is not valid TOML: {error}") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"it is longer than {_MOST_BYTES:,} bytes", str(path))
    return content


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
