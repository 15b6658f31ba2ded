from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distill_ray.cli.main import app, parser_of
from distill_ray.cli.output import run
from distill_ray.errors import ConfigError, Problem
from distill_ray.events.records import PipelinePlan, PlannedStage
from distill_ray.pipeline import run as run_pipeline
from distill_ray.pipeline.run import PipelineReport, StageOutcome

REPORT = PipelineReport(
    output_dir=Path("/runs/b"),
    model_path=Path("/runs/b/b.distill"),
    stages=(StageOutcome(stage="prepare", state="skipped", reason="there"),),
    reports={"tune": {"best": {"rvq_levels": 4}}},
    samples=("/runs/b/samples/s.wav",),
    exit_code=0,
)


class Pipeline:
    """Stands for the pipeline: keeps its arguments, tells its plan, gives `report` or raises `error`."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.report = REPORT
        self.error: Exception | None = None

    def __call__(self, **arguments: Any) -> PipelineReport:
        self.calls.append(arguments)
        stage = PlannedStage(stage="prepare", skipped=True, reason="the corpus [is] there")
        arguments["listener"](PipelinePlan(output_dir="/runs/b", stages=(stage,)))
        if self.error is not None:
            raise self.error
        return self.report


@pytest.fixture
def pipeline(monkeypatch, tmp_path) -> Pipeline:
    made = Pipeline()
    monkeypatch.setattr(run_pipeline, "run_everything", made)
    monkeypatch.setattr("distill_ray.display.log._open_log", lambda path: (tmp_path / "log").open("ab"))
    return made


def test_what_is_left_open_stays_open(pipeline, tmp_path):
    assert run(app, ["run", str(tmp_path / "birds"), "MORE"]) == 0
    call = pipeline.calls[0]
    assert call["sources"] == [str(tmp_path / "birds"), "MORE"]
    assert call["overrides"] == {}
    assert (call["name"], call["default_name"], call["tune"]) == (None, "birds", None)
    assert {call[key] for key in ("config_file", "out", "resume")} == {None}
    assert call["plan"].num_workers is None


def test_every_option_of_its_own_arrives(pipeline, capsys):
    line = (
        "run IN --out /o --name n --samples 3 --seconds 2.5 --prior-epochs 4 --prior-minutes 1.5 --seed 9"
        " --codebook-sizes 64,128 --max-minutes 30 --size tiny --num-workers 2 --gpus-per-worker 0"
        " --address 1.2.3.4:6379 --config c.toml --json"
    )
    assert run(app, line.split()) == 0
    call = pipeline.calls[0]
    assert call["overrides"] == {
        "sweep.codebook_sizes": (64, 128),
        "pipeline.max_minutes": 30.0,
        "model.size": "tiny",
        "training.seed": 9,
        "prior_training.epochs": 4,
        "prior_training.max_minutes": 1.5,
        "prior_training.seed": 9,
        "generate.count": 3,
        "generate.seconds": 2.5,
        "generate.seed": 9,
    }
    assert (call["out"], call["name"]) == ("/o", "n")
    assert call["config_file"] == Path("c.toml")
    plan = call["plan"]
    assert (plan.num_workers, plan.gpus_per_worker, plan.address) == (2, 0.0, "1.2.3.4:6379")
    assert call["address"] == "1.2.3.4:6379"
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document.pop("warnings") == []
    assert document == REPORT.to_json()
    assert (document["model_path"], document["tune"]["best"]) == ("/runs/b/b.distill", {"rvq_levels": 4})
    assert "  prepare  skipped   the corpus [is] there" in captured.err


def test_every_option_of_a_search_is_there():
    of_tune = {param.name for param in parser_of("tune").params}
    assert of_tune - {param.name for param in parser_of("run").params} == {"data"}


def test_a_prior_in_this_process_may_follow_a_search_on_a_cluster(pipeline):
    run(app, ["run", "IN", "--num-workers", "0", "--address", "1.2.3.4:6379"])
    call = pipeline.calls[0]
    assert (call["address"], call["plan"].num_workers, call["plan"].address) == ("1.2.3.4:6379", 0, None)


def test_an_earlier_run_needs_no_source(pipeline):
    assert run(app, ["run", "--resume", "/runs/b"]) == 0
    call = pipeline.calls[0]
    assert (call["sources"], call["resume"]) == ((), "/runs/b")


def test_the_file_is_the_result_and_the_folders_are_told(pipeline, capsys):
    run(app, ["run", "IN"])
    captured = capsys.readouterr()
    assert captured.out == "/runs/b/b.distill\n"
    assert "samples  /runs/b/samples" in captured.err


@pytest.mark.parametrize("code", [1, 3, 4])
def test_the_exit_code_of_the_stage_that_ended_is_passed_on(pipeline, capsys, code):
    pipeline.report = dataclasses.replace(REPORT, exit_code=code, model_path=None, samples=())
    assert run(app, ["run", "IN"]) == code
    assert capsys.readouterr().out == ""


def test_wrong_settings_are_named_by_the_flags_of_this_command(pipeline, capsys):
    pipeline.error = ConfigError(
        [
            Problem("prior_training.epochs", "0 is below 1", "--epochs"),
            Problem("generate.count", "0 is below 1", "-n"),
            Problem("training.lr", "0 is too low", "--lr"),
            Problem("training.seed", "-1 is too low", "--seed"),
            Problem("prior_training.seed", "-1 is too low", "--seed"),
            Problem("generate.seed", "-1 is too low", "--seed"),
        ]
    )
    assert run(app, ["run", "IN"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert [line.split()[1] for line in errors] == ["--prior-epochs", "--samples", "--lr", "--seed"]
