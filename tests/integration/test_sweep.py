"""Searches on Ray Tune with real trainings; most share one private Ray, as a start takes seconds."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distill_ray.bundle import load_model_v2
from distill_ray.errors import CancelledError, ConfigError, UsageError
from distill_ray.events.records import Event, SweepCompleteEvent, SweepStarted, TrialUpdate
from distill_ray.runtime.plan import WorkerPlan, resolve_plan
from distill_ray.runtime.ray_session import Session, ray_session
from distill_ray.storage.lock import LOCK_NAME
from distill_ray.tune.search_report import SweepReport
from distill_ray.tune.table import read_trials

# A busy machine takes minutes to start Ray alone.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    """tiny_sweep.py as a module."""
    spec = importlib.util.spec_from_file_location("tiny_sweep", Path(__file__).with_name("tiny_sweep.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_sweep"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield tiny.recordings(root / "in")


@pytest.fixture(scope="module")
def session(tiny: ModuleType) -> Iterator[Session]:
    """A private Ray with room for two trials, or for one of two workers and the process that drives them."""
    with ray_session(resolve_plan(WorkerPlan(num_workers=3, gpus_per_worker=0))) as session:
        import ray.cloudpickle

        ray.cloudpickle.register_pickle_by_value(tiny)
        yield session


@pytest.fixture
def nothing_left(session: Session) -> Iterator[None]:
    """What trials held is free again after the test."""
    yield
    import ray

    deadline = time.monotonic() + 30.0
    while ray.available_resources().get("CPU") != 3.0:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)
    from ray.util import placement_group_table

    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}


@pytest.fixture(scope="module")
def uncut(session: Session, tiny: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search from beginning to end, its folder and its events."""
    out, events = tmp_path_factory.mktemp("uncut") / "s", []
    return tiny.search(data, out, listener=events.append), out, events


def ranking(report: SweepReport) -> list[tuple[str, int, float]]:
    return [(row.trial, row.rvq_levels, row.val_loss) for row in report.candidates]


def states(events: list[Event], trial: str) -> list[str]:
    """The states that a trial went through."""
    said = [event.state for event in events if isinstance(event, TrialUpdate) and event.trial == trial]
    return [state for number, state in enumerate(said) if number == 0 or said[number - 1] != state]


def record(out: Path, trial: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "trials" / trial / "trial.json").read_text())
    return loaded


def test_depths_are_scored_by_one_trial_and_finalists_trained_at_their_own(uncut: Any) -> None:
    report, out, events = uncut
    ids = [item.spec.id for item in report.records]
    assert ids[:2] == ["k16-q4", "k32-q4"]
    assert sorted(ids[2:]) == ["final-k16-q2", "final-k32-q2"]  # the better one first, whichever that is
    assert {item.state for item in report.records} == {"completed"}
    assert {item.epochs for item in report.records} == {3}
    assert len({item.steps for item in report.records}) == 1  # equal epochs are equal steps
    best = report.to_json()["best"]
    assert best["rvq_levels"] == 2
    assert best["kbps"] <= 0.7
    assert best["trial"].startswith("final-")
    finals = [row for row in report.candidates if row.trial.startswith("final-")]
    assert best["objective"] == min(row.val_loss for row in finals)
    for trial in ("k16-q4", "k32-q4"):
        rows = [row for row in report.candidates if row.trial == trial]
        assert [(row.rvq_levels, row.eligible) for row in sorted(rows, key=lambda row: row.rvq_levels)] == [
            (2, True),
            (4, False),
        ]
        assert states(events, trial) == ["pending", "running", "completed"]
    assert isinstance(events[-1], SweepCompleteEvent)
    assert events[-1].chosen == best["trial"]
    started = next(event for event in events if isinstance(event, SweepStarted))
    assert (started.trials, started.finalists, started.concurrent) == (2, 2, 2)
    said = {item.name: (item.value, item.source) for item in started.settings}
    assert said["size"] == ("tiny", "override")
    assert said["lr"] == ("0.002", "auto")

    assert json.loads((out / "leaderboard.json").read_text()) == json.loads(json.dumps(report.to_json()))
    records, rows = read_trials(out / "trials.parquet")
    assert (records, rows) == (report.records, report.candidates)
    assert sorted(path.name for path in out.iterdir() if path.name != LOCK_NAME) == [
        "leaderboard.json",
        "m.distill",
        "sweep.toml",
        "trials",
        "trials.parquet",
    ]


def test_the_winner_says_where_it_comes_from(uncut: Any) -> None:
    report, out, _ = uncut
    loaded = load_model_v2(out / "m.distill")
    sweep = loaded.metadata["sweep"]
    assert (loaded.vqvae_config.codebook_size, loaded.vqvae_config.num_quantizers) == (
        report.to_json()["best"]["codebook_size"],
        2,
    )
    assert sweep["space"] == {"model.codebook_size": {"values": [16, 32]}}
    assert sweep["trial"] == report.to_json()["best"]["trial"]
    assert sweep["objective_definition"] == report.objective_definition
    assert len(sweep["ranking"]) == len(report.candidates)
    assert sweep["health"]["stop"] is True
    assert sweep["seed"] == 0
    assert loaded.metadata["training"]["best_val_loss"] == report.to_json()["best"]["val_loss"]


def test_a_collapsing_trial_is_ended_and_the_others_go_on(
    session: Session, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    """A learning rate of 1 throws the encoder so far that most codes go unused, whatever the re-seeding."""
    more = {
        "sweep.codebook_sizes": (32,),
        "sweep.rvq_levels": (2,),
        "sweep.lrs": (1e-3, 1.0),
        "sweep.max_concurrent": 1,  # one process for both
        "training.epochs": 6,
        "model.reseed_threshold": 0.0,
        "health.warmup": 1,
        "health.patience": 2,
    }
    report = tiny.search(data, tmp_path / "s", more=more)
    sound, thrown = sorted(report.records, key=lambda item: item.spec.id)
    assert (sound.state, sound.epochs) == ("completed", 6)
    assert thrown.state == "collapsed"
    assert thrown.reason.startswith("collapsed level ")
    assert "utilization" in thrown.reason
    assert 3 <= thrown.epochs < 6
    assert report.exit_code == 0
    assert report.to_json()["best"]["trial"] == sound.spec.id
    rows = {row.trial: row for row in report.candidates}
    assert not rows[thrown.spec.id].eligible
    # The loop stopped by itself and kept a checkpoint: the guard would have left none of that moment.
    progress = tmp_path / "s" / "trials" / thrown.spec.id / "checkpoints" / "latest" / "progress.json"
    assert json.loads(progress.read_text())["ended"] == "health"


@pytest.mark.slow
def test_a_killed_trial_goes_on_once_and_the_search_without_one_that_dies_again(
    uncut: Any, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    out, events = tmp_path / "s", list[Event]()
    # They kill themselves: from outside, a fast machine's trial would have ended first.
    deaths = functools.partial(tiny.dying_note, {"k16-q4": 1, "k32-q4": 2})
    report = tiny.search(data, out, more=tiny.EACH_STEP, listener=events.append, trial_listener=deaths)
    assert states(events, "k16-q4") == ["pending", "running", "retrying", "running", "completed"]
    assert states(events, "k32-q4") == ["pending", "running", "retrying", "running", "failed"]
    by_id = {item.spec.id: item for item in report.records}
    assert by_id["k32-q4"].reason == "a worker process was killed"
    assert [by_id[trial].attempts for trial in ("k16-q4", "k32-q4")] == [2, 2]
    first, again = tiny.starts(out, "k16-q4")
    assert first[1] == 0
    assert again[1] >= 10  # of the 11 steps of the first epoch: from its checkpoint, not from the beginning
    assert report.exit_code == 0
    assert report.to_json()["best"]["trial"] == "final-k16-q2"
    whole = {item.spec.id: item for item in uncut[0].records}
    for trial in ("k16-q4", "final-k16-q2"):
        assert (by_id[trial].val_loss, by_id[trial].steps) == (whole[trial].val_loss, whole[trial].steps)


@pytest.mark.slow
def test_a_trial_without_a_finite_gradient_fails_in_words(
    session: Session, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    events = list[Event]()
    more = {"sweep.codebook_sizes": (16,), "sweep.rvq_levels": (2,), "loss.mel": 1e30}
    report = tiny.search(data, tmp_path / "s", more=more, listener=events.append)
    assert states(events, "k16-q2") == ["pending", "running", "retrying", "running", "failed"]
    (failed,) = report.records
    assert failed.reason.startswith(
        "all steps of epoch 1 were skipped because their gradients were not finite"
    )
    assert failed.attempts == 2
    assert (report.exit_reason, report.exit_code, report.model_path) == ("failed", 1, None)
    assert report.advice
    assert "TrainingError" in (tmp_path / "s" / "trials" / "k16-q2" / "error.log").read_text()


def test_ctrl_c_keeps_what_was_done_and_a_resumed_search_ends_as_an_uncut_one(
    uncut: Any, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    out, pressed = tmp_path / "s", tmp_path / "pressed"

    def press(event: Event) -> None:
        if isinstance(event, TrialUpdate) and event.epoch == 1 and not pressed.exists():
            os.kill(os.getpid(), signal.SIGINT)
            pressed.touch()

    report = tiny.search(
        data, out, listener=press, trial_listener=functools.partial(tiny.patient_note, pressed)
    )
    assert (report.exit_reason, report.exit_code, report.model_path) == ("cancelled", 3, None)
    assert "cancelled" in {item.state for item in report.records}
    assert not (out / "m.distill").exists()
    for item in report.records:
        if item.state == "cancelled" and item.epochs:
            assert (out / "trials" / item.spec.id / "checkpoints" / "latest").is_dir()

    with pytest.raises(UsageError, match="already holds a search; go on with it"):
        tiny.search(data, out, more={"training.epochs": 4})
    with pytest.raises(ConfigError, match=r"sweep\.codebook_sizes\): is 16, 32 in the resumed search"):
        tiny.search(data, out, more={"sweep.codebook_sizes": (16, 64)}, resume=True)
    again = tiny.search(data, out, more={"sweep.max_concurrent": 2}, resume=True)
    assert ranking(again) == ranking(uncut[0])
    assert again.exit_code == 0


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_at_once(
    session: Session, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    pressed = 0

    def press(event: Event) -> None:
        nonlocal pressed
        running = isinstance(event, TrialUpdate) and (event.trial, event.state) == ("k16-q4", "running")
        if pressed == 0 and running:
            pressed = 1
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(CancelledError, match="at once; its trials keep their checkpoints"):
        tiny.search(data, out, more={"training.epochs": 500}, listener=press)
    assert record(out, "k16-q4")["state"] == "running"
    pids = [pid for trial in ("k16-q4", "k32-q4") for pid, _ in tiny.starts(out, trial)]
    deadline = time.monotonic() + 20.0
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_search_whose_driver_was_killed_goes_on(
    uncut: Any, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    program = [sys.executable, str(Path(tiny.__file__ or "")), str(data), str(out)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True) as driver:
        assert driver.stderr is not None
        said = []
        for line in driver.stderr:
            said.append(line)
            if re.fullmatch(r"final-\S+ running [1-9]\n", line):
                os.kill(driver.pid, signal.SIGKILL)
                break
        else:
            pytest.fail("".join(said))
    kept = {path: path.read_bytes() for path in out.glob("trials/k*/trial.json")}
    assert len(kept) == 2
    report = tiny.search(data, out, resume=True)
    assert ranking(report) == ranking(uncut[0])
    assert {path: path.read_bytes() for path in kept} == kept
    assert all(len(tiny.starts(out, path.parent.name)) == 1 for path in kept)
    begun = [tiny.starts(out, trial) for trial in ("final-k16-q2", "final-k32-q2")]
    assert any(len(each) == 2 and each[1][1] > 0 for each in begun)  # went on from its checkpoint


@pytest.mark.slow
def test_a_trial_of_two_workers_is_a_ray_train_run_that_leaves_nothing(
    session: Session, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    more = {"sweep.codebook_sizes": (16,), "sweep.rvq_levels": (2,), "sweep.workers_per_trial": 2}
    report = tiny.search(data, tmp_path / "s", more=more)
    (only,) = report.records
    assert (only.state, only.epochs, only.attempts) == ("completed", 3, 1)
    assert report.to_json()["best"]["trial"] == "k16-q2"


def test_prior_bits_ranks_finalists_by_a_short_prior(
    session: Session, nothing_left: None, tiny: ModuleType, data: Path, tmp_path: Path
) -> None:
    more = {
        "sweep.rvq_levels": (2,),
        "sweep.plan": "grid",
        "sweep.max_concurrent": 1,
        "sweep.objective": "prior-bits",
        "training.epochs": 1,
        "prior.hidden_size": 32,
        "prior.num_layers": 1,
        "prior.num_heads": 2,
        "prior.context_frames": 16,
        "prior_training.epochs": 1,
        "prior_training.min_epoch_steps": 2,
    }
    report = tiny.search(data, tmp_path / "s", more=more)
    bits = {item.spec.id: item.prior_bits_per_second for item in report.records}
    assert all(value is not None and 0 < value < 62.5 * 2 * 6 for value in bits.values())
    assert report.to_json()["best"]["objective"] == min(value for value in bits.values() if value is not None)
    said = {trial["id"]: trial["prior_bits_per_second"] for trial in report.to_json()["trials"]}
    assert said == bits
    assert (tmp_path / "s" / "trials" / "k16-q2" / "prior" / "checkpoints" / "latest").is_dir()
