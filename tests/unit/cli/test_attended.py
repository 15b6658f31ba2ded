from __future__ import annotations

import dataclasses
import json

import pytest

from distill_ray.cli.attended import EventLines, attended
from distill_ray.cli.main import app
from distill_ray.cli.output import finish, run
from distill_ray.events.lines import parse_line
from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import (
    Notice,
    PipelinePlan,
    PriorStepMetrics,
    StageProgress,
    TrialUpdate,
    from_record,
)

STEP = PriorStepMetrics(
    step=1,
    epoch=1,
    epoch_step=1,
    steps_per_epoch=9,
    fraction=0.1,
    loss=2.0,
    lr=0.1,
    grad_norm=1.0,
    skipped_steps=0,
    steps_per_second=1.0,
    codes_per_second=1.0,
    eta_s=None,
)
TRIAL = TrialUpdate(trial="t0", round="search", state="running", codebook_size=64, rvq_levels=2, kbps=1.0)


@pytest.fixture
def said(capsys):
    """The documents of the lines so far, after their kind."""
    return lambda: [parse_line(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def in_job(monkeypatch):
    monkeypatch.setenv("DISTILL_RAY_EVENTS", "1")


def test_of_many_steps_a_second_four_are_said(said):
    now = [0.0]
    lines = EventLines(clock=lambda: now[0])
    for number in range(100):
        now[0] = number / 50
        lines(dataclasses.replace(STEP, step=number))
    steps = [document["step"] for _, document in said()]
    assert steps[0] == 0
    assert 7 <= len(steps) <= 8


def test_what_happens_once_is_always_said(said):
    lines = EventLines(clock=lambda: 0.0)
    events = [
        Notice(level="info", message="a"),
        Notice(level="info", message="b"),
        StageProgress(stage="prepare", done=1, total=3),
        StageProgress(stage="prepare", done=2, total=3),  # the first of the stage was just said
        StageProgress(stage="prepare", done=3, total=3),
        StageProgress(stage="encode", done=1, total=3),
        TRIAL,
        dataclasses.replace(TRIAL, fraction=0.5),  # as well
        dataclasses.replace(TRIAL, trial="t1"),
        dataclasses.replace(TRIAL, epoch=1),
        dataclasses.replace(TRIAL, state="completed"),
    ]
    for event in events:
        lines(event)
    assert len(said()) == len(events) - 2


def test_in_a_job_events_and_result_are_lines_and_nothing_is_drawn(in_job, said, capsys):
    with attended() as view:
        view(Notice(level="info", message="hello"))
        view.warn("mind this")
        view.final_report({"model": "m"})
        view.table("Title", ("a",), [("b",)])
    finish({"model_path": "m", "loss": float("nan")}, result="m", as_json=False)
    captured = capsys.readouterr()
    lines = [parse_line(line) for line in captured.err.splitlines()]
    assert [kind for kind, _ in lines] == ["event", "event", "report", "result"]
    assert (lines[1][1]["level"], lines[1][1]["message"]) == ("warning", "mind this")
    assert lines[2][1] == {"model": "m"}
    assert lines[3][1] == {"document": {"model_path": "m", "loss": None}, "result": "m"}
    assert captured.out == "m\n"


def test_a_run_at_a_uri_is_shown_there_and_logged_in_its_folder(in_job, said, tmp_path):
    with attended() as view:
        view(PipelinePlan(output_dir=str(tmp_path), stages=(), uri="s3://b/birds"))
    assert [document["output_dir"] for _, document in said()] == ["s3://b/birds"]
    assert (tmp_path / "events.jsonl").is_file()


def test_in_a_job_a_failure_is_a_line_with_its_exit_code(in_job, capsys):
    assert run(app, ["info", "/nowhere.distill"]) == 2
    kinds = [parse_line(line) for line in capsys.readouterr().err.splitlines()]
    (kind, facts) = next(found for found in kinds if found is not None)
    assert (kind, facts["type"], facts["exit_code"]) == ("error", "BundleError", 2)
    assert "/nowhere.distill" in facts["message"]


def test_in_a_job_an_unexpected_error_leaves_its_traceback_in_the_log(in_job, capsys):
    def broken(**arguments: object) -> None:
        raise RuntimeError("wires crossed")

    assert run(broken, []) == 1
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert "the traceback is in the job's log" in text


def test_at_a_terminal_it_is_the_display(monkeypatch, capsys):
    monkeypatch.delenv("DISTILL_RAY_EVENTS", raising=False)
    with attended() as view:
        view(Notice(level="info", message="hello"))
    finish({"a": 1}, as_json=True)
    captured = capsys.readouterr()
    assert captured.err == "hello\n"
    assert json.loads(captured.out) == {"a": 1}


FOUND = RecordingsFound(
    used=3, rows=(("left out", "in/[x].wav", "it is empty"), ("copy", "b", "a copy of a"))
)


def test_what_was_found_of_recordings_is_one_table_and_in_the_warnings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with attended() as view:
        view(FOUND)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if line] == [
        ["Recordings", "(3", "used)"],
        ["left", "out", "in/[x].wav", "it", "is", "empty"],
        ["copy", "b", "a", "copy", "of", "a"],
    ]
    assert view.warnings == ["left out: in/[x].wav: it is empty", "copy: b: a copy of a"]


def test_a_job_hands_on_what_was_found_of_recordings(said, in_job):
    with attended() as view:
        view(FOUND)
    ((kind, document),) = said()
    assert (kind, from_record(document)) == ("event", FOUND)
    assert len(view.warnings) == 2
