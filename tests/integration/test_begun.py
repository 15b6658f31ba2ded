"""What commit ed010dd began and a kill interrupted (a run, a search, a pipeline) ends as it ended it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

BEGUN = Path(__file__).with_name("begun")
# Rounding differs between processors; another way to train would differ by far more.
CLOSE = 1e-3

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def resume(tmp_path: Path, in_process: Any) -> Any:
    """Unpacks what was begun and goes on with it by the command that is given; its JSON document."""

    def go_on(begun: str, *command: str) -> dict[str, Any]:
        for name in ("in", begun):
            with tarfile.open(BEGUN / f"{name}.tar.xz") as archive:
                if hasattr(tarfile, "data_filter"):  # Python 3.11 has it from 3.11.4 on
                    archive.extraction_filter = tarfile.data_filter
                archive.extractall(tmp_path)  # noqa: S202 - our own archive
        environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = in_process(*command, "--json", cwd=tmp_path, environment=environment)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    return go_on


def epochs_of(log: Path) -> list[int]:
    """The epochs that a run's log has, in order; those of before it was killed first."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [event["epoch"] for event in events if event["event"] in ("VQEpochMetrics", "PriorEpochMetrics")]


def test_a_codec_s_run(resume: Any, tmp_path: Path) -> None:
    made = resume("train", "train", "in", "--resume", "train", "--num-workers", "0")
    assert (made["epochs_completed"], made["best_epoch"], made["exit_reason"]) == (3, 3, "completed")
    assert made["best_val_loss"] == pytest.approx(45.06515121459961, rel=CLOSE)
    assert made["final_train_loss"] == pytest.approx(49.142312442555145, rel=CLOSE)
    assert epochs_of(tmp_path / "train" / "events.jsonl") == [1, 2, 2, 3]
    assert Path(made["model_path"]).exists()


def test_a_pipeline(resume: Any, tmp_path: Path) -> None:
    made = resume("pipe", "run", "in", "--resume", "pipe", "--num-workers", "0")
    states = {stage["stage"]: stage["state"] for stage in made["stages"]}
    assert states == {"prepare": "skipped", "codec": "skipped", "prior": "done", "samples": "done"}
    assert made["prior"]["best_perplexity"] == pytest.approx(15.783321173490217, rel=CLOSE)
    assert epochs_of(tmp_path / "pipe" / "m.prior" / "events.jsonl") == [1, 2, 2, 3]
    assert len(made["samples"]) == 1


@pytest.mark.slow
def test_a_search(resume: Any, tmp_path: Path) -> None:
    made = resume("search", "tune", "in", "--resume", "search")
    trials = {trial["id"]: (trial["state"], trial["epochs"], trial["attempts"]) for trial in made["trials"]}
    assert trials == {"k16-q3": ("completed", 2, 1), "k32-q3": ("completed", 2, 2)}
    losses = {trial["id"]: trial["val_loss"] for trial in made["trials"]}
    assert losses["k16-q3"] == 44.387046813964844  # kept as it was
    assert losses["k32-q3"] == pytest.approx(44.39514923095703, rel=CLOSE)
    assert made["best"]["trial"] == "k16-q3"
    assert epochs_of(tmp_path / "search" / "trials" / "k16-q3" / "events.jsonl") == [1, 2]
