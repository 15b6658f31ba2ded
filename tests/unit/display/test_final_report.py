from __future__ import annotations

import dataclasses
import re

from rich.console import Console

from distill_ray.display.final_report import final_report
from distill_ray.display.history import History
from distill_ray.display.tables import table, warning_line
from distill_ray.vqvae.health import Collapse


def shown(console: Console, *parts: object) -> str:
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def words(line: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", line).split()


def test_the_final_report_has_everything(pipe, started, epoch, complete):
    history = History()
    for event in (started(), epoch(), complete):
        history.add(event)
    text = shown(pipe, *final_report(history, {"model": "/runs/birds.distill"}))
    lines = [words(line) for line in text.splitlines()]
    assert ["ended", "completed", "after", "3", "epochs"] in lines
    assert ["final", "training", "loss", "88.5"] in lines
    assert ["final", "held-out", "loss", "91.25"] in lines
    assert [
        "best",
        "held-out",
        "loss",
        "90.75",
        *["(epoch", "2,", "kept;", "lower", "is", "better)"],
    ] in lines
    assert ["throughput", "34.5", "seconds", "of", "audio", "per", "second"] in lines
    assert ["time", "1:02:05"] in lines
    assert ["model", "/runs/birds.distill"] in lines
    assert ["2", "10%", "low", "4.0", "58", "0.333"] in lines
    assert text.splitlines()[-1] == "warning: RVQ level 2 uses 10% of its codes"


def test_the_priors_report_has_its_own_numbers(pipe, prior_epoch, prior_complete):
    history = History()
    history.add(prior_epoch)
    history.add(prior_complete)
    text = shown(pipe, *final_report(history, {}))
    lines = [words(line) for line in text.splitlines()]
    assert ["best", "perplexity", "31.5", "(epoch", "1;", "lower", "is", "better)"] in lines
    assert ["held-out", "cost", "3,480", "bits", "per", "second", "of", "audio"] in lines
    assert "warning: epoch 2: the prior repeats its training data" in text
    assert "Codebook health" not in text


def test_a_run_without_an_end_says_so(pipe, started):
    history = History()
    history.add(started())
    assert "before its last event" in shown(pipe, *final_report(history, {}))


def test_of_many_warnings_the_latest_are_repeated(pipe, complete):
    history = History()
    names = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    history.add(dataclasses.replace(complete, warnings=tuple(f"{name} is low" for name in names)))
    lines = [line for line in shown(pipe, *final_report(history, {})).splitlines() if "warning" in line]
    assert lines[0] == "warning: 76 earlier warnings are in the run's events.jsonl"
    assert lines[1:] == [f"warning: {name} is low" for name in names[76:]]


def test_of_the_same_warning_of_many_epochs_the_last_is_repeated(pipe, complete):
    history = History()
    warnings = tuple(f"epoch {n}: RVQ level 1 uses {n}% of its codes" for n in range(1, 31))
    history.add(dataclasses.replace(complete, warnings=warnings))
    lines = [line for line in shown(pipe, *final_report(history, {})).splitlines() if "warning" in line]
    assert lines == ["warning: epoch 30: RVQ level 1 uses 30% of its codes"]


def test_square_brackets_are_text_everywhere(pipe, started):
    history = History()
    history.add(started())
    parts = [
        *final_report(history, {"model": "/a[/red]/b[bold].distill"}),
        warning_line("[link]x[/link]"),
        table("t[dim]", ("c[red]",), [("v[/]",)]),
    ]
    text = shown(pipe, *parts)
    for piece in ("/a[/red]/b[bold].distill", "[link]x[/link]", "t[dim]", "c[red]", "v[/]"):
        assert piece in text


def test_a_collapse_is_said(pipe, started, complete):
    history = History()
    collapse = Collapse(level=3, value=0.12, reports=3, measure="utilization", floor=0.3)
    history.add(started())
    history.add(dataclasses.replace(complete, exit_reason="health", collapse=collapse))
    lines = [" ".join(words(line)) for line in shown(pipe, *final_report(history, {})).splitlines()]
    assert lines[lines.index("ended health after 3 epochs") + 1] == (
        "collapse collapsed level 3: utilization 0.12 < 0.30 for 3 reports"
    )


def test_a_search_and_a_prior_make_one_report(pipe, sweep, sweep_complete, started, prior_complete):
    history = History()
    run = started(kind="prior", settings=())
    for event in (*sweep, sweep_complete, run, prior_complete):
        history.add(event)
    text = shown(pipe, *final_report(history, {"model": "/o/birds.distill"}))
    lines = [" ".join(words(line)) for line in text.splitlines()]
    titles = [line for line in lines if line in ("Trials", "Candidates", "Search", "Prior", "Result")]
    assert titles == ["Trials", "Candidates", "Search", "Prior"]
    assert "held-out cost 3,480 bits per second of audio" in lines
    assert "model /o/birds.distill" in lines


def test_a_codec_and_a_prior_have_a_part_each(pipe, started, epoch, complete, prior_epoch, prior_complete):
    history = History()
    for event in (started(), epoch(), complete, started(kind="prior"), prior_epoch, prior_complete):
        history.add(event)
    text = shown(pipe, *final_report(history, {}))
    codec, _, prior = text.partition("Prior")
    assert "best held-out loss" in codec
    assert "Codebook health" in codec
    assert "best perplexity" in prior
    assert text.splitlines()[-2:] == [
        "warning: RVQ level 2 uses 10% of its codes",
        "warning: epoch 2: the prior repeats its training data",
    ]
