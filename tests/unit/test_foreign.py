from __future__ import annotations

import json
import sys
import unicodedata
from dataclasses import dataclass

import pytest

from distill_ray.foreign import Printable, ascii_controls, printable, printable_fields

# What is not shown as it is: all of these categories but for what writing needs.
HIDDEN = ("Cc", "Cs", "Zl", "Zp", "Cf")
NEEDED = {0x00AD, 0x200C, 0x200D}
DRAWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}  # signs with a shape
DRAWN |= {*range(0x13430, 0x13440)}  # those that join hieroglyphs


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("plain ü 日本 👩‍🎤", "plain ü 日本 👩‍🎤"),
        ("a\nerror: b", "a\\nerror: b"),
        ("a\r\tb", "a\\r\\tb"),
        ("\x1b]0;title\x07\x1b[31m", "\\x1b]0;title\\x07\\x1b[31m"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("txt.\u202ewav\u2066", "txt.\\u202ewav\\u2066"),
        ("a\u2028b\u0085c", "a\\u2028b\\x85c"),
        (b"\xff.wav".decode("utf-8", "surrogateescape"), "\\xff.wav"),
        ("\ud800 \U000e0041", "\\ud800 \\U000e0041"),
        ("[bold]x[/bold] :smile:", "[bold]x[/bold] :smile:"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_escapes(foreign, shown):
    assert printable(foreign) == shown
    assert printable(shown) == shown


def test_every_character_without_a_shape_is_escaped_and_no_other():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        hidden = unicodedata.category(character) in HIDDEN and code not in NEEDED | DRAWN
        if printable(character) != character:
            assert hidden or not character.isprintable(), hex(code)
        else:
            assert not hidden, hex(code)


def test_what_is_printable_already_is_left_alone():
    own = Printable("\x1b[1mok\x1b[0m")
    assert printable(own) is own


@dataclass(frozen=True, kw_only=True)
class Inner:
    words: tuple[str, ...]
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    count: int


def test_every_text_of_a_record_is_made_printable():
    record = Outer(name="a\x1b", inner=Inner(words=("b\n", "c"), figures={"\x07": 1.0}), count=3)
    assert printable_fields(record) == Outer(
        name="a\\x1b", inner=Inner(words=("b\\n", "c"), figures={"\\x07": 1.0}), count=3
    )


def test_json_keeps_its_content_and_holds_no_controls():
    content = {"a\x9b": ["\x1b]0;x\x07\n", "\u202e\u2028\x7f", "\udcff", "\U000e0041 ü"]}
    text = ascii_controls(json.dumps(content, ensure_ascii=False, indent=2))
    assert json.loads(text) == content
    assert "ü" in text
    assert all(printable(line) == line for line in text.split("\n"))
    text.encode()
