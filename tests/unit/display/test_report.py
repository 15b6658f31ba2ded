from __future__ import annotations

import dataclasses
import re

from rich.console import Console

from distill_ray.display.history import RunHistory
from distill_ray.display.report import final_report, health_table, table, warning_line


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


def test_the_final_report_has_everything(pipe, started, epoch, complete):
    history = RunHistory()
    for event in (started(), epoch(), complete):
        history.add(event)
    text = shown(pipe, *final_report(history, {"model": "/runs/birds.distill"}))
    lines = [words(line) for line in text.splitlines()]
    assert ["codebook_size", "64", "(auto)"] in lines
    assert ["lr", "0.002", "(override)"] in lines
    assert ["ended", "completed", "after", "3", "epochs"] in lines
    assert ["final", "training", "loss", "88.5"] in lines
    assert ["final", "held-out", "loss", "91.25"] in lines
    assert ["best", "held-out", "loss", "90.75", "(epoch", "2,", "kept)"] in lines
    assert ["throughput", "34.5", "seconds", "of", "audio", "per", "second"] in lines
    assert ["time", "1:02:05"] in lines
    assert ["model", "/runs/birds.distill"] in lines
    assert ["2", "10", "%", "low", "4.0", "58", "0.333"] in lines
    assert text.splitlines()[-1] == "warning: RVQ level 2 uses 10% of its codes"


def test_the_priors_report_has_its_own_numbers(pipe, prior_epoch, prior_complete):
    history = RunHistory()
    history.add(prior_epoch)
    history.add(prior_complete)
    text = shown(pipe, *final_report(history, {}))
    lines = [words(line) for line in text.splitlines()]
    assert ["best", "perplexity", "31.5", "(epoch", "1,", "kept)"] in lines
    assert ["held-out", "cost", "3,480", "bits", "per", "second", "of", "audio"] in lines
    assert "warning: epoch 2: the prior repeats its training data" in text
    assert "Codebook health" not in text


def test_a_run_without_an_end_says_so(pipe, started):
    history = RunHistory()
    history.add(started())
    assert "before its last event" in shown(pipe, *final_report(history, {}))


def test_of_many_warnings_the_latest_are_repeated(pipe, complete):
    history = RunHistory()
    history.add(dataclasses.replace(complete, warnings=tuple(f"epoch {n}: low" for n in range(1, 101))))
    lines = [line for line in shown(pipe, *final_report(history, {})).splitlines() if "warning" in line]
    assert lines[0] == "warning: 76 earlier warnings are in the run's events.jsonl"
    assert lines[1:] == [f"warning: epoch {n}: low" for n in range(77, 101)]


def test_square_brackets_are_text_everywhere(pipe, started):
    history = RunHistory()
    history.add(started())
    parts = [
        *final_report(history, {"model": "/a[/red]/b[bold].distill"}),
        warning_line("[link]x[/link]"),
        table("t[dim]", ("c[red]",), [("v[/]",)]),
    ]
    text = shown(pipe, *parts)
    for piece in ("/a[/red]/b[bold].distill", "[link]x[/link]", "t[dim]", "c[red]", "v[/]"):
        assert piece in text


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
