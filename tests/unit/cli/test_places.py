"""No command stores, sends or prints a URI with credentials in it, whichever argument it comes as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distill_ray.cli import jobs as commands
from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.cli.places import expanded
from distill_ray.errors import UsageError
from distill_ray.jobs.address import dashboard_address
from distill_ray.jobs.client import ClusterFacts
from distill_ray.jobs.submit import JobRequest, submit_job

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
S3 = f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/runs"
GS = f"gs://bucket/runs?access_token={SECRET}"
SAS = f"abfs://container@account.dfs.core.windows.net/m.distill?sv=2022-11-02&sig={SECRET}"
LOCAL = [
    "prepare DATA --out {}",
    "prepare {} --out ds",
    "train {}",
    "train DATA --out {}",
    "train {} --resume",
    "train-prior {} DATA",
    "train-prior m.distill {}",
    "tune {}",
    "tune DATA --out {}",
    "run {} --out x",
    "run DATA --out {}",
    "evaluate m.distill {}",
]
ON_THIS_MACHINE = ["info {}", "generate {} --out x.wav", "encode {} a.wav -o x.codes"]
SUBMITTED = [
    "--storage {} -- train /data",
    "--storage s3://b/runs -- train {}",
    "-- train /data --out {}",
    "-- train /data --out={}",
    "-- train s3://b/data --resume {}",
    "-- train-prior {} s3://b/data",
    "-- train-prior s3://b/m.distill {}",
    "--storage s3://b/runs -- tune {}",
    "--storage s3://b/runs -- run s3://b/data {}",
]


@pytest.mark.parametrize("uri", [S3, GS, SAS], ids=["s3", "gs", "abfs"])
@pytest.mark.parametrize("line", LOCAL + ON_THIS_MACHINE)
def test_a_command_refuses_credentials_before_anything_is_stored(line, uri, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DATA").mkdir()
    words = [word.format(uri) for word in line.split()]
    if line == "train {} --resume":
        words = ["train", "DATA", "--resume", uri]
    assert run(app, [*words, "--json"]) == 2
    captured = capsys.readouterr()
    why = "no file of this machine" if line in ON_THIS_MACHINE else "credentials"
    assert why in captured.err
    assert why in json.loads(captured.out)["error"]["message"]
    said = captured.out + captured.err
    assert SECRET not in said
    assert SECRET[-12:] not in said
    assert list(tmp_path.rglob("*")) == [tmp_path / "DATA"]


class Cluster:
    """Notes everything that is asked of it."""

    address = dashboard_address("http://head:8265", {})

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def check(self, on_wait: object = None) -> ClusterFacts:
        self.asked.append("check")
        return ClusterFacts(ray_version="2.60.0", python_version="", resources={"CPU": 2.0})

    def upload(self, package: str, content: bytes) -> str:
        self.asked.append(content)
        return f"gcs://{package}"

    def submit(self, request: dict[str, Any], on_wait: Callable[[str], None] | None = None) -> str:
        self.asked.append(request)
        return str(request["submission_id"])


@pytest.mark.parametrize("uri", [S3, GS, SAS], ids=["s3", "gs", "abfs"])
@pytest.mark.parametrize("line", SUBMITTED)
def test_submit_refuses_credentials_before_anything_is_sent(line, uri, monkeypatch, capsys):
    cluster = Cluster()
    monkeypatch.setattr(commands, "connect", lambda address, token_file: cluster)
    assert run(app, ["submit", "--no-wait", *(word.format(uri) for word in line.split())]) == 2
    captured = capsys.readouterr()
    assert "credentials" in captured.err
    assert SECRET not in captured.out + captured.err
    assert cluster.asked == []


@pytest.mark.parametrize(
    "parts",
    [{"arguments": ("train", f"--out={S3}")}, {"reads": (GS,)}, {"writes": (SAS,)}, {"output": S3}],
    ids=["arguments", "reads", "writes", "output"],
)
def test_no_job_with_credentials_is_sent(parts):
    cluster = Cluster()
    request = JobRequest(**{"name": "birds", "arguments": ("train", "/data"), **parts})
    with pytest.raises(UsageError, match="credentials") as refused:
        submit_job(cluster, request, cluster.check())
    assert SECRET not in str(refused.value)
    assert cluster.asked == ["check"]


def test_azure_containers_are_no_secret(monkeypatch, capsys):
    cluster = Cluster()
    monkeypatch.setattr(commands, "connect", lambda address, token_file: cluster)
    place = "abfs://container@account.dfs.core.windows.net/runs"
    line = ["submit", "--no-wait", "--name", "birds", "--storage", place, "--", "train", "/data"]
    assert run(app, line) == 0
    (sent,) = [asked for asked in cluster.asked if isinstance(asked, dict)]
    assert sent["metadata"]["output"] == f"{place}/birds"
    assert f"{place}/birds" in sent["entrypoint"]


def test_a_path_may_look_a_little_like_a_uri(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "music: me@work").mkdir()
    assert run(app, ["prepare", "music: me@work", "--out", "ds"]) == 2
    assert "credentials" not in capsys.readouterr().err


def test_the_home_folder_is_meant_wherever_a_path_is_taken(tmp_path, monkeypatch, capsys):
    """No shell expands the ~ of `--out=~/x`: no command may make or miss something called ~ for it."""
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "in").mkdir(parents=True)
    here.mkdir()
    soundfile.write(home / "in" / "a.wav", np.sin(np.arange(8_000) / 9), 8_000)
    (home / "bad.toml").write_text("[training]\nepochs = -1\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert run(app, ["prepare", "~/in", "--out=~/corpus"]) == 0
    assert capsys.readouterr().out == f"{home}/corpus\n"
    missing = [
        "info ~/m.distill",
        "generate ~/m.distill --out=~/x",
        "generate ~/m.distill --prompt=~/in/a.wav --check --corpus=~/in -o ~/x",
        "vary ~/m.distill ~/in/a.wav -o ~/x",
        "fill ~/m.distill ~/in/a.wav --out=~/x --from 0.1 --to 0.2",
        "loop ~/m.distill -o ~/x",
        "morph ~/m.distill ~/in/a.wav ~/in/a.wav -o ~/x",
        "evaluate ~/m.distill ~/in --generated ~/in",
        "encode ~/m.distill ~/in/a.wav -o ~/x",
        "decode ~/m.distill ~/x -o ~/x.wav",
        "bundle ~/m.distill --prior=~/m.distill --out=~/x",
        "evaluate ~/m.distill ~/corpus",
        "train-prior ~/m.distill ~/corpus",
        "train ~/corpus --resume=~/m.distill",
        "tune ~/corpus --resume=~/m.distill",
        "run --resume=~/m.distill",
        "report ~/m.distill",
    ]
    for line in missing:
        assert run(app, line.split()) == 2
        captured = capsys.readouterr()
        assert f"{home}/m.distill" in captured.err, line
    assert run(app, ["train", "~/in", "--config=~/bad.toml"]) == 2
    assert "training.epochs" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_what_is_no_path_keeps_its_tilde():
    given = {"name": "~x", "words": ("~/a",), "env": ["A=~"], "sources": ["~nobody-at-all/a"], "count": 3}
    assert expanded(given) == given
