from __future__ import annotations

import dataclasses
import json
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.events.records import SweepCompleteEvent, TrialUpdate


@dataclasses.dataclass
class Report:
    """What the search would return; the seam is `to_json`, `exit_code` and `model_path`."""

    model_path: Path | None
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "output_dir": "/runs/s",
            "best": {"codebook_size": 64},
            "trials": [],
            "report_path": "/runs/s/report.html",
        }


class Search:
    """Stands for the search: keeps its arguments and tells of one trial."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.report = Report(Path("/runs/s/m.distill"))

    def __call__(self, **arguments: Any) -> Report:
        self.calls.append(arguments)
        listener = arguments["listener"]
        listener(
            TrialUpdate(
                trial="k64-q8", round="search", state="running", codebook_size=64, rvq_levels=8, kbps=4.1
            )
        )
        listener(
            SweepCompleteEvent(
                exit_reason="health", chosen="", candidates=(), gpu_seconds=1.0, elapsed_s=2.0, advice="less"
            )
        )
        return self.report


@pytest.fixture
def search(monkeypatch) -> Iterator[Search]:
    made = Search()
    module = types.ModuleType("distill_ray.tune.tune")
    module.tune_codec = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def test_what_is_left_open_is_no_override(search, tmp_path):
    assert run(app, ["tune", str(tmp_path / "birds")]) == 0
    call = search.calls[0]
    assert call["overrides"] == {}
    assert call["name"] == "birds"
    assert {call[key] for key in ("config_file", "out", "resume", "address")} == {None}


def test_every_option_arrives(search, capsys):
    line = (
        "tune --codebook-sizes 64,128 --rvq-levels 2,4 DATA --trials 3 --max-minutes 2.5 --max-kbps 4"
        " --objective prior-bits --scheduler asha --search random --plan grid --finalists 1"
        " --gpus-per-trial 0.5 --workers-per-trial 2 --max-concurrent 4 --health-floor 0.2"
        " --health-patience 5 --health-warmup 1 --no-health-stop --size tiny --epochs 7 --batch-size 6"
        " --lr 0.002 --commitment-weight 0.5 --seed 9 --address 1.2.3.4:6379 --out /o --name n"
        " --config c.toml --json"
    )
    assert run(app, line.split()) == 0
    call = search.calls[0]
    assert call["overrides"] == {
        "sweep.codebook_sizes": (64, 128),
        "sweep.rvq_levels": (2, 4),
        "sweep.trials": 3,
        "sweep.max_minutes": 2.5,
        "sweep.max_kbps": 4.0,
        "sweep.objective": "prior-bits",
        "sweep.scheduler": "asha",
        "sweep.search": "random",
        "sweep.plan": "grid",
        "sweep.finalists": 1,
        "sweep.gpus_per_trial": 0.5,
        "sweep.workers_per_trial": 2,
        "sweep.max_concurrent": 4,
        "health.floor": 0.2,
        "health.patience": 5,
        "health.warmup": 1,
        "health.stop": False,
        "model.size": "tiny",
        "training.epochs": 7,
        "training.batch_size": 6,
        "training.lr": 0.002,
        "model.commitment_weight": 0.5,
        "training.seed": 9,
    }
    assert (call["data"], call["out"], call["name"]) == ("DATA", "/o", "n")
    assert (call["config_file"], call["address"]) == (Path("c.toml"), "1.2.3.4:6379")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["best"] == {"codebook_size": 64}
    assert "trial k64-q8: running" in captured.err


def test_the_best_model_is_the_result(search, capsys):
    run(app, ["tune", "DATA"])
    assert capsys.readouterr().out == "/runs/s/m.distill\n"


@pytest.mark.parametrize("code", [3, 4])
def test_a_search_without_a_winner_ends_with_its_code_and_no_path(search, capsys, code):
    search.report = Report(None, exit_code=code)
    assert run(app, ["tune", "DATA"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "less" in captured.err


def test_a_resumed_search_keeps_its_name(search):
    run(app, ["tune", "DATA", "--resume", "/runs/s"])
    assert (search.calls[0]["resume"], search.calls[0]["name"]) == ("/runs/s", None)


def test_the_trials_listener_can_be_sent(search):
    run(app, ["tune", "DATA"])
    listener = search.calls[0]["trial_listener"]
    assert pickle.loads(pickle.dumps(listener)) is listener


def test_wrong_lists_are_all_named(search, capsys):
    assert run(app, ["tune", "DATA", "--codebook-sizes", "64,many", "--rvq-levels", ""]) == 2
    assert search.calls == []
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["--codebook-sizes", "--rvq-levels"]
