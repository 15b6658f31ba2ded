from __future__ import annotations

import io
import re

from rich.console import Console

from distill_ray.display.tables import health_table, table
from distill_ray.vqvae.health import CodeAgreement


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
        ["0", "50%", "good", "40.2", "32", "0.912"],
        ["1", "30%", "fair", "20.0", "45", "0.700"],
        ["2", "10%", "low", "4.0", "58", "0.333"],
    ]
    for row, colour in zip(rows, ("\x1b[32m", "\x1b[33m", "\x1b[31m"), strict=True):
        assert row.count(colour) == 2, "the share and its word"


def test_health_with_agreement_fits_into_80_columns(health):
    narrow = Console(file=io.StringIO(), width=80)
    full = [(1.0, 1.0, 1.0)] * 5
    fields = ("shift_eighth", "shift_quarter", "shift_half", "polarity", "gain_3db")
    agreement = CodeAgreement(**dict(zip(fields, full, strict=True)))
    text = shown(narrow, health_table(health, agreement=agreement))
    assert all(len(line) <= 80 for line in text.splitlines())
    for name in ("utilization", "perplexity", "entropy", "¼ frame", "−1 ×", "±3 dB"):
        assert name in text, "a column's name is not broken"
    assert ["2", "10%", "low", "4.0", "58", "0.333", *["100%"] * 3] in map(words, text.splitlines())


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
