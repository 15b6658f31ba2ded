"""No text of an event, whoever wrote it, is obeyed by the terminal or read as markup."""

from __future__ import annotations

import dataclasses
import io
import types
import typing
from typing import Any

import pytest
from rich.console import Console

from distill_ray.display import Display
from distill_ray.display.failure import report_failure
from distill_ray.display.tables import as_lines, table
from distill_ray.events.records import Event, Notice

HOSTILE = "x\nerror: forged\r\x1b]0;owned\x07\x1b[2J\x9b1A\u202e[blink]m[/blink] :smile:"
SHOWN = r"x\nerror: forged\r\x1b]0;owned\x07\x1b[2J\x9b1A\u202e[blink]m[/blink] :smile:"
KINDS = typing.get_args(Event)


def hostile(kind: Any) -> Any:
    """A record whose every text is hostile."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{field.name: hostile(hints[field.name]) for field in dataclasses.fields(kind)})
    origin = typing.get_origin(kind)
    if isinstance(kind, types.UnionType):
        return hostile(typing.get_args(kind)[0])
    if origin is tuple:
        return (hostile(typing.get_args(kind)[0]),)
    if origin is dict:
        return {HOSTILE: hostile(typing.get_args(kind)[1])}
    return {str: HOSTILE, int: 2, float: 0.5, bool: True, Any: HOSTILE}[kind]


def is_tame(text: str) -> bool:
    lines = [line.strip() for line in text.split("\n")]
    controls = ("\r", "\x07", "\x1b]", "\x1b[2J\x9b", "\x9b", "\u202e", "\x1b[5m")
    return not any(line.startswith("error:") for line in lines) and not any(bad in text for bad in controls)


@pytest.mark.parametrize("live", [True, False], ids=["live", "plain"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_hostile_event_is_only_text(kind, live):
    # Wide, so that no text is folded; without the returns that a redrawing view moves the cursor by.
    console = Console(
        file=io.StringIO(), force_terminal=live, color_system="standard", width=2000, highlight=False
    )
    with Display(console) as display:
        display(hostile(kind))
        if kind is Notice:
            display(Notice(level="warning", message=HOSTILE))
            display(Notice(level="info", message=HOSTILE))
        display.table(HOSTILE, (HOSTILE, "b"), [(HOSTILE, 1.0)])
        display.warn(HOSTILE)
        display.final_report({HOSTILE: HOSTILE})
    drawn = console.file.getvalue().replace("\r\x1b[2K", "").replace("\r", "" if live else "\r")
    assert is_tame(drawn), drawn
    assert SHOWN in drawn


def test_tables_on_stdout_are_only_text():
    lines = as_lines([table("", ("a",), [(HOSTILE[:20],)])])
    assert is_tame("\n".join(lines))
    assert any(r"x\nerror: forged\r\x1b]" in line for line in lines)


def test_a_failed_listener_is_said_on_one_line(capsys):
    report_failure(HOSTILE, ValueError(HOSTILE))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert is_tame(said)
