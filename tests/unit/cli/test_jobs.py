"""The `jobs` commands and `submit` with a made-up cluster; tests/cluster has a real one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from distill_ray.cli import jobs as commands
from distill_ray.cli.main import app, parser_of
from distill_ray.cli.output import run
from distill_ray.errors import UsageError
from distill_ray.events.records import Notice, to_record
from distill_ray.jobs import follow as jobs
from distill_ray.jobs.address import dashboard_address
from distill_ray.jobs.client import ClusterFacts, JobRecord

DONE = JobRecord(
    job_id="birds",
    status="succeeded",
    message="",
    started=1.0,
    ended=2.0,
    exit_code=0,
    entrypoint="python -m distill_ray",
    metadata={"distill_ray": "0.1.0", "command": "train", "output": "s3://b/birds"},
)
DOCUMENT = {"model_path": "s3://b/birds/birds.distill"}
RESULT = {"document": DOCUMENT, "result": "s3://b/birds/birds.distill"}


class Cluster:
    """One job and its log."""

    def __init__(self) -> None:
        self.address = dashboard_address("http://head:8265", {})
        self.record = DONE
        self.log = ""
        self.sent: list[dict[str, Any]] = []

    def says(self, kind: str, document: dict[str, Any]) -> None:
        self.log += f"distill-ray-{kind} {json.dumps(document)}\n"

    def check(self, on_wait: object = None) -> ClusterFacts:
        return ClusterFacts(ray_version="2.60.0", python_version="", resources={"CPU": 2.0})

    def jobs(self) -> list[JobRecord]:
        return [self.record, dataclasses.replace(DONE, job_id="other", metadata={})]

    def job(self, job_id: str) -> JobRecord:
        if job_id != "birds":
            raise UsageError(f"knows no job {job_id}")
        return self.record

    def logs(self, job_id: str) -> str:
        return self.log

    def upload(self, package: str, content: bytes) -> str:
        return f"gcs://{package}"

    def submit(self, request: dict[str, Any], on_wait: Callable[[str], None] | None = None) -> str:
        self.sent.append(request)
        return str(request["submission_id"])


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    monkeypatch.setattr(commands, "connect", lambda address, token_file: made)
    return made


def test_list_shows_our_jobs_and_all_of_them_when_asked(cluster, capsys):
    assert run(app, ["jobs", "list"]) == 0
    text = capsys.readouterr().out
    assert "birds" in text
    assert "s3://b/birds" in text
    assert "other" not in text
    assert run(app, ["jobs", "list", "--all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["jobs"]
    assert [job["job_id"] for job in found] == ["birds", "other"]


def test_status_is_a_few_lines(cluster, capsys):
    assert run(app, ["jobs", "status", "birds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "state      succeeded" in lines
    assert "results    s3://b/birds" in lines


def test_an_unknown_job_is_an_input_error(cluster, capsys):
    assert run(app, ["jobs", "status", "nope"]) == 2
    assert capsys.readouterr().err == "error: knows no job nope\n"


def test_a_finished_jobs_log_is_drawn_and_ends_as_the_job_did(cluster, capsys):
    cluster.says("event", to_record(Notice(level="warning", message="mind this")))
    cluster.says("result", RESULT)
    cluster.record = dataclasses.replace(DONE, status="failed", exit_code=4)
    assert run(app, ["jobs", "logs", "birds", "--json"]) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"job_id": "birds", **DOCUMENT}
    assert captured.err.count("warning: mind this") == 2  # when it happened and in the report


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_what_follows_a_commands_name_is_its_own(dashes):
    words = ["train", "s3://b/corpus", "--epochs", "3"]
    context = parser_of("submit").make_context("submit", ["--storage", "s3://b", *dashes, *words])
    assert (context.params["storage"], context.params["words"]) == ("s3://b", words)


def test_a_stopped_job_says_how_to_go_on(cluster, capsys):
    cluster.says("report", {"model": RESULT["result"]})
    cluster.says("result", RESULT)
    cluster.record = dataclasses.replace(DONE, status="stopped", exit_code=None)
    assert run(app, ["jobs", "logs", "birds"]) == 3
    captured = capsys.readouterr()
    assert captured.out == f"{RESULT['result']}\n"
    assert f"model  {RESULT['result']}" in captured.err
    assert "distill-ray jobs fetch birds\n" in captured.err
    assert (
        "the same submit with --resume s3://b/birds and another --name, without --storage\n" in captured.err
    )


def test_a_running_jobs_log_is_drawn_so_far(cluster, capsys):
    cluster.record = dataclasses.replace(DONE, status="running", exit_code=None)
    cluster.says("event", to_record(Notice(level="info", message="so far")))
    assert run(app, ["jobs", "logs", "birds"]) == 0
    assert "so far" in capsys.readouterr().err


def test_what_a_job_says_is_only_text(cluster, capsys):
    hostile = "x\nerror: forged\r\x1b]0;owned\x07\x9b1A\u202e[bold]"
    cluster.record = dataclasses.replace(
        DONE, message=hostile, entrypoint=hostile, metadata=dict.fromkeys(DONE.metadata, hostile)
    )
    cluster.says("event", to_record(Notice(level="warning", message=hostile)))
    cluster.says("result", {"document": {"path": hostile}, "result": hostile})
    for words in (["list"], ["status", "birds"], ["logs", "birds"]):
        assert run(app, ["jobs", *words]) == 0
        captured = capsys.readouterr()
        for text in (captured.out, captured.err):
            assert not [line for line in text.split("\n") if line.lstrip().startswith("error:")]
            assert not {"\r", "\x1b", "\x07", "\x9b", "\u202e"} & set(text)
        assert r"x\nerror:" in captured.out
        assert run(app, ["jobs", *words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert hostile in (found["jobs"][0] if "jobs" in found else found).values()


def test_the_last_words_of_a_failed_job_are_only_text(cluster, capsys):
    cluster.record = dataclasses.replace(DONE, status="failed", exit_code=1, message="x\nerror: forged")
    cluster.log = "one\rerror: forged\x1b[2J\nerror: forged\n"
    assert run(app, ["jobs", "logs", "birds"]) == 1
    said = capsys.readouterr().err.split("\n")
    assert [line for line in said if line.startswith("error:")] == said[-2:-1]
    assert r"  | one\rerror: forged\x1b[2J" in said
    assert "  | error: forged" in said


def test_the_raw_log_is_escaped_for_a_terminal_only(cluster, capsys, monkeypatch):
    cluster.log = "\x1b[31mred\x1b[0m\n\tline\n"
    assert run(app, ["jobs", "logs", "birds", "--raw"]) == 0
    assert capsys.readouterr().out == cluster.log
    monkeypatch.setattr(commands, "shown_to_a_person", lambda: True)
    assert run(app, ["jobs", "logs", "birds", "--raw"]) == 0
    assert capsys.readouterr().out == "\\x1b[31mred\\x1b[0m\n\\tline\n"


def test_the_raw_log_is_the_log(cluster, capsys):
    cluster.log = "Running entrypoint\nline\n"
    assert run(app, ["jobs", "logs", "birds", "--raw"]) == 0
    assert capsys.readouterr().out == cluster.log


def test_a_job_that_a_signal_ended_has_failed_and_can_go_on(cluster, capsys):
    said = "Job entrypoint command failed with exit code -9"
    cluster.record = dataclasses.replace(DONE, status="failed", exit_code=-9, message=said)
    assert run(app, ["jobs", "logs", "birds"]) == 1
    text = capsys.readouterr().err
    assert "error: job birds failed: signal 9 ended its driver (a node short of memory does that);" in text
    assert "go on with it: the same submit with --resume s3://b/birds and another --name" in text


def test_a_failed_jobs_sentence_and_exit_code_are_the_jobs(cluster, capsys):
    cluster.says("error", {"type": "CorpusError", "message": "no audio there", "exit_code": 2})
    cluster.record = dataclasses.replace(DONE, status="failed", exit_code=2)
    assert run(app, ["jobs", "logs", "birds"]) == 2
    assert capsys.readouterr().err == "error: no audio there\n"


def test_a_job_that_died_without_a_word_shows_its_last_lines(cluster, capsys):
    cluster.log = "Killed\n"
    cluster.record = dataclasses.replace(
        DONE, status="failed", exit_code=None, message="Job supervisor actor died: out of memory."
    )
    assert run(app, ["jobs", "logs", "birds"]) == 1
    text = capsys.readouterr().err
    assert "  | Killed\n" in text
    assert "job birds failed: Job supervisor actor died: out of memory; its whole log: distill-ray" in text


def test_ctrl_c_leaves_the_job_and_says_how_to_return(cluster, capsys, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "follow", interrupted)
    cluster.record = dataclasses.replace(DONE, status="running", exit_code=None)
    line = "jobs logs birds --follow --json --address http://head:8265"
    assert run(app, line.split()) == 3
    captured = capsys.readouterr()
    assert "distill-ray jobs logs birds --follow --address http://head:8265\n" in captured.err
    assert "distill-ray jobs stop birds --address http://head:8265\n" in captured.err
    assert json.loads(captured.out) == {"job_id": "birds", "detached": True}


def test_submit_without_waiting_prints_the_id(cluster, capsys):
    line = "submit --name owls --storage s3://b --no-wait --env A=b=c --pip optuna -- train s3://c --epochs 2"
    assert run(app, line.split()) == 0
    captured = capsys.readouterr()
    assert captured.out == "owls\n"
    assert "job owls at http://head:8265: distill-ray train " in captured.err
    (sent,) = cluster.sent
    assert sent["runtime_env"]["env_vars"]["A"] == "b=c"
    assert sent["runtime_env"]["pip"] == ["optuna"]
    assert "--epochs=2" in sent["entrypoint"]


@pytest.mark.parametrize(
    "line",
    [
        "submit --storage s3://b -- train s3://c --epochs 0",
        "submit --storage s3://b -- train s3://c --nope",
        "submit --storage s3://b --env A -- train s3://c",
        "submit --storage s3://b --name ../x -- train s3://c",
        "submit",
    ],
)
def test_a_wrong_line_sends_nothing(cluster, line):
    assert run(app, line.split()) == 2
    assert cluster.sent == []


@pytest.mark.parametrize(
    ("url", "warned"), [("http://head:8265", 1), ("https://head", 0), ("http://localhost:8265", 0)]
)
def test_a_token_over_an_open_network_is_worth_a_warning(tmp_path, capsys, url, warned):
    token = tmp_path / "token"
    token.write_text("abc")
    token.chmod(0o600)
    commands.connect(url, token)
    text = capsys.readouterr().err
    assert text.count("warning: the token travels unencrypted to head") == warned
    assert "abc" not in text


def test_the_group_names_its_commands(capsys):
    assert run(app, ["jobs", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("list", "status", "logs", "stop", "fetch"))
    assert "..." not in text.partition("Commands:")[2]  # Click cuts a first sentence that is too long
