from __future__ import annotations

import json

from distill_ray.events.lines import parse_line, say
from distill_ray.events.records import Notice, VQStepMetrics, from_record, to_record

STEP = VQStepMetrics(
    step=1,
    epoch=1,
    epoch_step=1,
    steps_per_epoch=2,
    fraction=0.5,
    loss=float("nan"),
    losses={"mel": float("inf")},
    lr=0.1,
    grad_norm=1.0,
    skipped_steps=0,
    steps_per_second=1.0,
    audio_seconds_per_second=1.0,
    eta_s=None,
)


def test_an_event_comes_back_as_it_was_also_where_json_has_no_number_for_it(capsys):
    say("event", to_record(STEP))
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    kind, record = parse_line(line.rstrip("\n"))
    assert kind == "event"
    assert repr(from_record(record)) == repr(STEP)


def test_a_text_with_line_breaks_stays_one_line(capsys):
    say("event", to_record(Notice(level="info", message="one\ntwo é")))
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert parse_line(line)[1]["message"] == "one\ntwo é"


def test_lines_of_others_and_cut_ones_are_nothing():
    assert parse_line("Running entrypoint for job x: python -m distill_ray") is None
    assert parse_line('distill-ray-event {"event": "Not') is None
    assert parse_line("distill-ray-result [1]") is None
    assert parse_line("distill-ray-result {}") is None
    assert parse_line('distill-ray-result {"document": [], "result": null}') is None
    assert parse_line('distill-ray-result {"document": {}, "result": 1}') is None
    assert parse_line("distill-ray-error {}") is None
    assert parse_line("distill-ray-event " + "[" * 100_000) is None
    assert parse_line("distill-ray-event " + '{"a":' * 100_000 + "1" + "}" * 100_000) is None
    said = {"document": {"a": 1}, "result": None}
    assert parse_line(f"distill-ray-result {json.dumps(said)}") == ("result", said)
