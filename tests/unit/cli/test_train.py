from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.events.records import Notice
from distill_ray.pipeline import train as pipeline


@dataclasses.dataclass
class Report:
    """What the pipeline would return; the seam is `to_json` and `exit_code`."""

    document: dict[str, Any]
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        return self.document


DOCUMENT = {"model_path": "/runs/m.distill", "output_dir": "/runs", "report_path": "/runs/report.html"}


@pytest.fixture
def calls(monkeypatch) -> list[dict[str, Any]]:
    """Arguments that reached the pipeline, which does nothing but say a warning."""
    seen: list[dict[str, Any]] = []

    def receive(**arguments: Any) -> Report:
        seen.append(arguments)
        arguments["listener"](Notice(level="warning", message="mind [this]"))
        return Report(dict(DOCUMENT), exit_code=4)

    monkeypatch.setattr(pipeline, "train_codec", receive)
    monkeypatch.setattr(pipeline, "train_code_prior", receive)
    return seen


def test_only_given_settings_are_overrides(calls, tmp_path):
    code = run(app, ["train", str(tmp_path / "birds")])
    assert code == 4
    assert calls[0]["overrides"] == {}
    assert calls[0]["name"] == "birds"
    assert (calls[0]["out"], calls[0]["resume"], calls[0]["config_file"]) == (None,) * 3
    assert calls[0]["plan"].num_workers is None


def test_every_option_of_train_arrives(calls, capsys):
    line = (
        "train --size tiny --codebook-size 128 --rvq-levels 4 DATA --commitment-weight 0.5 --epochs 3"
        " --max-minutes 2.5 --batch-size 6 --lr 0.002 --seed 7 --num-workers 2 --gpus-per-worker 0"
        " --health-stop --health-floor 0.25 --health-patience 4 --health-warmup 1"
        " --address 1.2.3.4:6379 --out /o --name n --config c.toml --json"
        " --channels 2 --sample-rate 48000 --val-fraction 0.2"
    )
    assert run(app, line.split()) == 4
    call = calls[0]
    assert call["overrides"] == {
        "corpus.sample_rate": 48_000,
        "corpus.channels": 2,
        "corpus.val_fraction": 0.2,
        "model.size": "tiny",
        "model.codebook_size": 128,
        "model.num_quantizers": 4,
        "model.commitment_weight": 0.5,
        "training.epochs": 3,
        "training.max_minutes": 2.5,
        "training.batch_size": 6,
        "training.lr": 0.002,
        "training.seed": 7,
        "health.stop": True,
        "health.floor": 0.25,
        "health.patience": 4,
        "health.warmup": 1,
    }
    assert (call["data"], call["out"], call["name"]) == ("DATA", "/o", "n")
    assert call["config_file"] == Path("c.toml")
    assert (call["plan"].num_workers, call["plan"].gpus_per_worker) == (2, 0.0)
    assert call["plan"].address == "1.2.3.4:6379"
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {**DOCUMENT, "warnings": ["mind [this]"]}
    assert "/runs/report.html" in captured.err
    # Once when it happened and once in the final report.
    assert captured.err.count("warning: mind [this]") == 2


@pytest.mark.parametrize("command", ["train DATA", "train-prior m.distill DATA"])
def test_a_report_is_written_unless_it_is_not_wanted(calls, command):
    run(app, command.split())
    run(app, [*command.split(), "--no-report"])
    assert [call["report"] for call in calls] == [True, False]


def test_the_model_path_is_the_result(calls, capsys):
    run(app, ["train", "DATA"])
    assert capsys.readouterr().out == "/runs/m.distill\n"


def test_a_resumed_run_keeps_its_name_unless_told(calls):
    run(app, ["train", "DATA", "--resume", "/runs/x"])
    assert (calls[0]["resume"], calls[0]["name"]) == ("/runs/x", None)


def test_the_health_rule_is_left_to_the_settings_unless_told(calls):
    run(app, ["train", "DATA", "--no-health-stop"])
    assert calls[0]["overrides"] == {"health.stop": False}


def test_every_option_of_train_prior_arrives(calls):
    line = (
        "train-prior m.distill DATA --epochs 2 --max-minutes 1 --hidden-size 64 --layers 2 --heads 4"
        " --pattern flatten --lr 0.001 --batch-size 3 --seed 5 --num-workers 0 --resume --overwrite"
    )
    assert run(app, line.split()) == 4
    call = calls[0]
    assert call["overrides"] == {
        "prior.hidden_size": 64,
        "prior.num_layers": 2,
        "prior.num_heads": 4,
        "prior.pattern": "flatten",
        "prior_training.epochs": 2,
        "prior_training.max_minutes": 1.0,
        "prior_training.lr": 0.001,
        "prior_training.batch_size": 3,
        "prior_training.seed": 5,
    }
    assert (call["model"], call["data"]) == ("m.distill", "DATA")
    assert (call["resume"], call["overwrite"]) == (True, True)
    assert call["plan"].num_workers == 0
    run(app, ["train-prior", "m.distill", "DATA"])
    assert (calls[1]["resume"], calls[1]["overwrite"]) == (False, False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--name", "a/b"], "--name"), (["--num-workers", "x"], "--num-workers")],
)
def test_wrong_options_stop_before_the_pipeline(calls, capsys, arguments, named):
    assert run(app, ["train", "DATA", *arguments]) == 2
    assert calls == []
    assert capsys.readouterr().err.startswith(f"error: {named}: ")
