"""Text that others wrote (names of files, metadata of models, words of jobs, messages of exceptions) as it
may be shown. Standard library only.

Every line for a terminal or a log passes `printable`, in `cli/output.py` and in `display/`; JSON passes
`ascii_controls`, which keeps its content.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, TypeVar, cast

from distill_ray.uri import redacted

T = TypeVar("T")

# Control characters (ESC, which begins what a terminal obeys, and ends of lines), lone surrogates, and marks
# without a shape: overrides of the direction, and what hides text. Joiners stay, which scripts need.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Printable(str):
    """One line without anything that a terminal would obey."""

    __slots__ = ()


def printable(text: str) -> Printable:
    r"""`text` on one line, with escapes (`\n`, `\x1b`, `\u202e`) in the place of what is not printable, and
    without the credentials of URIs.

    A byte of a file's name that is not UTF-8 is shown as `\xff`.
    """
    return text if isinstance(text, Printable) else Printable(_UNPRINTABLE.sub(_escape, redacted(text)))


def printable_fields(value: T) -> T:
    """`value` with every text in it made printable: a record, a tuple, list or dictionary, or a text."""
    return cast(T, _made_printable(value))


def ascii_controls(document: str) -> str:
    """JSON text whose strings show what is not printable as JSON's own escapes: the same content."""
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], document
    )


def _made_printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, tuple | list):
        return type(value)(_made_printable(item) for item in value)
    if isinstance(value, dict):
        return {_made_printable(key): _made_printable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            field.name: _made_printable(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    return value


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that it could not decode
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
