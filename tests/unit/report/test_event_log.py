from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import AudioSample, Event, Notice, SweepCompleteEvent
from distill_ray.report.event_log import read_log


def sample(epoch: int) -> AudioSample:
    return AudioSample(kind="decoded", file=f"decoded-{epoch}.flac", index=0, epoch=epoch, step=10 * epoch)


def test_a_run_is_what_its_log_tells(
    tmp_path: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    events: list[Event] = [
        RecordingsFound(used=3, rows=(("left out", "a.wav", "it is empty"),)),
        records.started(),
        Notice(level="warning", message="short recordings"),
        Notice(level="info", message="told and forgotten"),
        records.step(5, 1),
        records.epoch(1),
        sample(1),
        records.epoch(2),
        records.complete(),
    ]
    found = read_log(write_log(tmp_path, *events))
    assert found.run is not None
    assert [each.epoch for each in found.run.epochs] == [1, 2]
    assert [each.step for each in found.run.steps] == [5]
    assert found.run.complete == records.complete()
    assert found.run.warnings == (
        "left out: a.wav: it is empty",
        "short recordings",
        "epoch 1: RVQ level 1 is low",
    )
    assert found.samples == (sample(1),)
    assert (found.first_time, found.last_time) == (1_796_000_000.0, 1_796_000_008.0)
    assert found.damaged == 0


def test_a_resumed_run_counts_what_it_trained_again_once(
    tmp_path: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    lost, again = records.epoch(2, loss=99.0), records.epoch(2, loss=11.0)
    events = (
        records.started(),
        records.epoch(1),
        sample(1),
        lost,
        sample(2),
        records.epoch(3, loss=98.0),
        records.started(first_epoch=2),
        again,
    )
    run = read_log(write_log(tmp_path, *events)).run
    assert run is not None
    assert [(each.epoch, each.val_loss) for each in run.epochs] == [(1, 24.0), (2, 11.0)]
    assert run.complete is None
    assert run.warnings == (
        "epoch 1: RVQ level 1 is low in epoch 1",
        "epoch 2: RVQ level 1 is low in epoch 2",
    )
    assert [each.epoch for each in read_log(tmp_path).samples] == [1]


def test_a_run_that_takes_anothers_place_has_nothing_of_it(
    tmp_path: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    events = (
        records.started("prior"),
        Notice(level="warning", message="of the first"),
        sample(1),
        *records.prior_run().epochs,
        records.prior_run().complete,
        Notice(level="warning", message="of the second"),
        records.started("prior"),
        records.prior_run().epochs[0],
    )
    found = read_log(write_log(tmp_path, *events))
    assert found.run is not None
    assert [each.epoch for each in found.run.epochs] == [1]
    assert (found.run.warnings, found.run.complete, found.samples) == (("of the second",), None, ())


def test_a_search_is_its_newest_states(
    tmp_path: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    facts = records.search()
    done = SweepCompleteEvent(
        exit_reason="completed", chosen="k256-q8", candidates=facts.candidates, gpu_seconds=1.0, elapsed_s=2.0
    )
    pending = (
        records.search()
        .trials[0]
        .__class__(
            trial="k256-q8", round="search", state="pending", codebook_size=256, rvq_levels=8, kbps=5.6
        )
    )
    found = read_log(write_log(tmp_path, pending, facts.trials[0], done))
    assert found.trials == facts.trials
    assert found.complete == done
    assert found.run is None


def test_lines_that_are_no_events_are_counted(
    tmp_path: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    write_log(tmp_path, records.started())
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'[1]\n{"event": "Nothing"}\nno json\n\xff\xfe\n')
        file.write(json.dumps({"event": "VQEpochMetrics", "epoch": 1}).encode())
    found = read_log(tmp_path)
    assert found.damaged == 5
    assert found.run is not None


def test_no_log_tells_nothing(tmp_path: Path) -> None:
    assert read_log(tmp_path).run is None


def test_no_warning_speaks_of_the_moment() -> None:
    """Reports repeat them once the run is over; one on slow steps said "the run goes on" there."""
    root = Path(__file__).parents[3] / "distill_ray"
    spoken = r"""f?"[^"]*\b(run|training|work|learning rate|upload) (goes on|is tried again|follows)\b"""
    found = [
        f"{path}: {line.strip()}"
        for folder in ("corpus", "runs", "runtime", "storage", "training", "tune")
        for path in (root / folder).rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.search(spoken, line) and '"""' not in line
    ]
    assert found == []
