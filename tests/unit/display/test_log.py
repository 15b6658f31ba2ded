from __future__ import annotations

import errno
import json
import math
import pickle
import time

import pytest

from distill_ray.display.listeners import Listeners
from distill_ray.display.log import EventLog, ScalarLog, scalars, trial_listener
from distill_ray.events.records import Notice, PipelinePlan, StageProgress, from_record


def strict(line: str) -> dict[str, object]:
    """Parse JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(line, parse_constant=refuse)


def read(tmp_path) -> list[dict[str, object]]:
    text = (tmp_path / "run" / "events.jsonl").read_text("utf-8")
    assert text.endswith("\n")
    return [strict(line) for line in text.splitlines()]


def test_events_read_back_as_they_were(tmp_path, started, step, epoch, complete):
    events = [started(), step(), epoch(), complete]
    before = time.time()
    with EventLog() as log:
        for event in events:
            log(event)
    records = read(tmp_path)
    assert [from_record(record) for record in records] == events
    assert all(before - 1 <= record["time"] <= time.time() + 1 for record in records)


def test_what_came_before_the_run_is_kept_and_stages_are_left_out(tmp_path, started):
    with EventLog() as log:
        log(Notice(level="warning", message="early ü"))
        log(StageProgress(stage="prepare", done=1, total=2))
        assert not (tmp_path / "run").exists()
        log(started())
    assert [record["event"] for record in read(tmp_path)] == ["Notice", "RunStarted"]
    assert read(tmp_path)[0]["message"] == "early ü"


def test_every_line_is_on_disk_at_once(tmp_path, started, step):
    log = EventLog()
    log(started())
    for number in range(1, 4):
        log(step(number))
        assert read(tmp_path)[-1]["step"] == number
    log.close()


def test_a_resumed_run_goes_on_in_the_file(tmp_path, started, step):
    for number in (1, 2):
        with EventLog() as log:
            log(started(first_epoch=number))
            log(step(number))
    assert [record.get("first_epoch", record.get("step")) for record in read(tmp_path)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "torn", [b'{"event": "VQStep', b'{"event": "Notice", "level": "info", "message": "\xc3']
)
def test_a_line_torn_by_a_kill_is_dropped(tmp_path, started, step, torn):
    with EventLog() as log:
        log(started())
    path = tmp_path / "run" / "events.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    with EventLog() as log:
        log(started(first_epoch=2))
    assert [record["first_epoch"] for record in read(tmp_path)] == [1, 2]


def test_nan_and_infinity_are_valid_json_and_read_back(tmp_path, started, step):
    with EventLog() as log:
        log(started())
        log(step(loss=math.nan, grad_norm=math.inf, eta_s=-math.inf, losses={"mel": math.nan}))
    record = read(tmp_path)[1]
    assert (record["loss"], record["grad_norm"], record["losses"]) == ("nan", "inf", {"mel": "nan"})
    event = from_record(record)
    assert math.isnan(event.loss)
    assert event.grad_norm == math.inf
    assert event.eta_s == -math.inf


def test_scalars_carry_health_of_each_level(epoch):
    rows = {tag: (value, at) for tag, value, at in scalars(epoch(2))}
    assert rows["epoch/val_loss"] == (101.5, 40)
    assert rows["codebook/level_2/utilization"] == (0.1, 40)
    assert rows["codebook/level_0/dead_codes"] == (32, 40)
    assert len([tag for tag in rows if tag.startswith("codebook/")]) == 12


def test_scalars_of_steps_and_of_the_prior(step, prior_step, prior_epoch):
    assert ("step/mel", 1.234, 5) in scalars(step())
    assert ("rate/data_wait_share", 0.125, 5) in scalars(step(data_wait_share=0.125))
    assert ("rate/codes_per_second", 12_345.0, 7) in scalars(prior_step)
    assert ("epoch/bits_per_second", 3480.0, 20) in scalars(prior_epoch)
    assert list(scalars(Notice(level="info", message=""))) == []


def test_tensorboard_files_hold_the_curves(tmp_path, started, step):
    with ScalarLog() as log:
        log(step(1))  # before the run: nowhere to put it
        log(started())
        for number in (1, 2):
            log(step(number, loss=number / 4))
    files = list((tmp_path / "run" / "tensorboard").iterdir())
    assert len(files) == 1
    content = files[0].read_bytes()
    assert content.count(b"step/loss") == 2
    assert content.count(b"rate/audio_seconds_per_second") == 2


def test_a_disk_that_is_full_costs_the_curves_and_not_the_run(tmp_path, started, step, capsys, monkeypatch):
    seen = []
    with Listeners(ScalarLog(), seen.append) as listeners:
        listeners(started())
        listeners(step(1))

        def full(record: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(
            "tensorboardX.record_writer.RecordWriter.write", lambda self, record: full(record)
        )
        for number in range(2, 40):  # more than any queue holds
            listeners(step(number))
    assert len(seen) == 40
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_a_search_is_logged_in_its_own_folder(tmp_path, sweep, sweep_complete, started):
    plan = PipelinePlan(output_dir=str(tmp_path / "all"), stages=())
    with EventLog() as log:
        for event in (plan, *sweep, sweep_complete, started()):
            log(event)

    def events(folder: str) -> list[object]:
        lines = (tmp_path / folder / "events.jsonl").read_text("utf-8").splitlines()
        return [from_record(strict(line)) for line in lines]

    assert events("all") == [plan]
    assert events("sweep") == [*sweep, sweep_complete]
    assert events("run") == [started()]


def test_a_trials_listener_travels_to_its_process(tmp_path, started, step):
    with pickle.loads(pickle.dumps(trial_listener))() as listener:
        listener(started())
        listener(step(3))
    assert [record["event"] for record in read(tmp_path)] == ["RunStarted", "VQStepMetrics"]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
