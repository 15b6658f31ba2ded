"""`submit` and `jobs` as programs against a real Ray head with a token."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill_ray.bundle import verify


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """The variables that name an S3 server with the bucket "runs"."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    named = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"], **named).create_bucket(Bucket="runs")
    yield variables
    server.stop()


def test_a_job_is_watched_like_a_local_run_and_its_model_fetched_from_s3(client, small_corpus, s3):
    client.environment = {**client.environment, **s3}
    options = [word for pair in s3.items() for word in ("--env", "=".join(pair))]
    options += ["--name", "whole", "--storage", "s3://runs/of/me"]
    job = client.train(small_corpus, "--epochs", "2")
    code, out, err = client.run("submit", *options, "--json", *job)
    assert code == 0, err
    document = json.loads(out)
    assert document["job_id"] == "whole"
    assert document["model_path"] == "s3://runs/of/me/whole/whole.distill"
    assert document["codebook_size"] == 16
    assert "training codec whole: " in err
    assert "epoch 2/2 " in err
    assert "codebook_size 16 (override)" in err
    assert "distill-ray-event" not in err

    fetched = client.document("jobs", "fetch", "whole", "--out", "got")
    assert fetched["paths"] == ["got/whole.distill"]
    verify(client.folder / "got" / "whole.distill")
    code, _, err = client.run("jobs", "fetch", "whole", "--out", "got")
    assert code == 2
    assert "exists already" in err

    jobs = client.document("jobs", "list")["jobs"]
    assert [(job["status"], job["command"]) for job in jobs if job["job_id"] == "whole"] == [
        ("succeeded", "train")
    ]
    code, _, err = client.run("submit", *options, *job)
    assert code == 2
    assert "already has a job named whole" in err


def test_ctrl_c_leaves_the_job_which_is_watched_again_stopped_and_fetched(client, small_corpus):
    store = client.folder / "store"
    job = client.train(small_corpus, "--epochs", "100000")
    process, stderr = client.start("submit", "--name", "long", "--storage", str(store), *job)
    client.wait_for(lambda: "epoch 2/100000" in stderr.read_text() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 3, stderr.read_text()
    assert "distill-ray jobs logs long --follow\n" in stderr.read_text()
    assert client.document("jobs", "status", "long")["status"] == "running"

    again, seen = client.start("jobs", "logs", "long", "--follow", "--json")
    client.wait_for(lambda: "epoch 2/100000" in seen.read_text() or again.poll() is not None)
    assert client.document("jobs", "stop", "long")["status"] == "stopped"
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 3
    assert json.loads(out)["exit_reason"] == "cancelled"
    assert "epoch 1/100000 " in seen.read_text()  # replayed from the beginning

    progress = json.loads((store / "long" / "checkpoints" / "latest" / "progress.json").read_text())
    assert progress["ended"] == "cancelled"
    client.document("jobs", "fetch", "long", "--all")
    verify(client.folder / "long" / "long.distill")
    assert (client.folder / "long" / "run.toml").is_file()


@pytest.mark.slow
def test_jobs_that_wait_and_jobs_that_run_are_ended_at_once(client, small_corpus):
    store = ["--storage", str(client.folder / "store"), "--no-wait", "--entrypoint-cpus", "2"]
    job = client.train(small_corpus, "--epochs", "100000")
    assert client.document("submit", "--name", "holds", *store, *job)["job_id"] == "holds"
    client.wait_for(lambda: client.document("jobs", "status", "holds")["status"] == "running")
    client.document("submit", "--name", "waits", *store, *job)
    assert client.document("jobs", "status", "waits")["status"] == "pending"
    assert client.document("jobs", "stop", "waits")["status"] == "stopped"
    assert client.document("jobs", "stop", "holds", "--now")["status"] == "stopped"
    ours = {job["job_id"] for job in client.document("jobs", "list")["jobs"]}
    assert {"holds", "waits"} <= ours
    assert not any(name.startswith("end-") for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("store", "sees no /nowhere/at-all: give a folder that its nodes share"),
        ("/proc/none", "cannot write"),
    ],
)
def test_places_that_the_cluster_has_not_got_are_said_by_the_job(client, small_corpus, storage, said):
    data = Path("/nowhere/at-all") if storage == "store" else small_corpus
    code, out, err = client.run("submit", "--storage", storage, "--json", *client.train(data))
    assert code == 2
    assert said in json.loads(out)["error"]["message"]
    assert err.count("error: ") == 1


def test_the_cluster_asks_for_its_token(client, head, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    code, _, err = client.run("jobs", "list", "--token-file", str(wrong))
    assert (code, err) == (1, f"error: the cluster at {head.url} refuses the token of {wrong}\n")
    client.environment = {**client.environment, "HOME": str(tmp_path)}
    del client.environment["RAY_AUTH_TOKEN_PATH"]
    code, _, err = client.run("jobs", "list")
    assert code == 1
    assert "asks for a token" in err
