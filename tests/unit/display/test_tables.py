from __future__ import annotations

import re

from rich.console import Console

from distill_ray.display.tables import health_table, table


def shown(console: Console, *parts: object) -> str:
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def words(line: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", line).split()


def test_health_is_coloured_by_utilization(terminal, health):
    lines = shown(terminal, health_table(health)).splitlines()
    rows = [line for line in lines if words(line)[:1] and words(line)[0] in "012"]
    assert [words(row) for row in rows] == [
        ["0", "50", "%", "good", "40.2", "32", "0.912"],
        ["1", "30", "%", "fair", "20.0", "45", "0.700"],
        ["2", "10", "%", "low", "4.0", "58", "0.333"],
    ]
    for row, colour in zip(rows, ("\x1b[32m", "\x1b[33m", "\x1b[31m"), strict=True):
        assert row.count(colour) == 2, "the share and its word"


def test_long_paths_are_folded_not_cut(pipe):
    path = "/data/" + "x" * 300
    text = shown(pipe, table("", ("path",), [(path,)]))
    assert "".join(text.split()).count("x") == 300
    assert "…" not in text


def test_columns_of_numbers_stand_right(pipe):
    made = table("", ("depth", "mel", "name"), [(1, 1.23456, "a"), (12, None, "b")])
    assert [column.justify for column in made.columns] == ["right", "right", "left"]
    rows = [words(line) for line in shown(pipe, made).splitlines()]
    assert ["1", "1.235", "a"] in rows
    assert ["12", "–", "b"] in rows


def test_a_table_without_column_names_has_no_empty_header(pipe):
    text = shown(pipe, table("Facts", ("", ""), [("files", 3)]))
    assert "─" not in text
    assert [words(line) for line in text.splitlines() if line.strip()] == [["Facts"], ["files", "3"]]
