from __future__ import annotations

import io
import shlex
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_ray.errors import ClusterError, UsageError
from distill_ray.jobs import submit
from distill_ray.jobs.client import ClusterFacts
from distill_ray.jobs.submit import (
    JobRequest,
    asked_command,
    check_name,
    entrypoint,
    new_name,
    package_archive,
    submit_job,
)

FACTS = ClusterFacts(ray_version="2.60.0", python_version="3.11.0", resources={"CPU": 4.0})


class Cluster:
    """Keeps what it is sent."""

    address = "http://head:8265"

    def __init__(self) -> None:
        self.packages: dict[str, bytes] = {}
        self.requests: list[dict[str, Any]] = []

    def upload(self, package: str, content: bytes) -> str:
        self.packages[f"gcs://{package}"] = content
        return f"gcs://{package}"

    def submit(self, request: dict[str, Any], on_wait: Callable[[str], None] | None = None) -> str:
        self.requests.append(request)
        return str(request["submission_id"])


def names(archive: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(archive)).namelist()


def test_the_package_is_its_source_alone_and_small():
    archive = package_archive()
    assert len(archive) < 2**20
    assert {name.rpartition(".")[2] for name in names(archive)} == {"py", "typed", "css", "js", "j2"}
    assert {"distill_ray/__init__.py", "distill_ray/__main__.py", "distill_ray/py.typed"} <= set(
        names(archive)
    )
    assert all(name.startswith("distill_ray/") for name in names(archive))
    assert package_archive() == archive


def test_a_job_is_sent_with_the_package_its_files_and_what_finds_its_results_again():
    cluster = Cluster()
    request = JobRequest(
        name="birds",
        arguments=("train", "--config=settings.toml", "--", "/data/my birds"),
        files={"settings.toml": b"[model]\n"},
        reads=("/data/my birds",),
        writes=("s3://b/runs",),
        output="s3://b/runs/birds",
        environment={"AWS_REGION": "x", "DISTILL_RAY_EVENTS": "0"},
        cpus=2.0,
    )
    assert submit_job(cluster, request, FACTS) == "birds"
    (sent,) = cluster.requests
    (module,) = sent["runtime_env"]["py_modules"]
    assert "distill_ray/cli/main.py" in names(cluster.packages[module])
    assert names(cluster.packages[sent["runtime_env"]["working_dir"]]) == ["settings.toml"]
    variables = sent["runtime_env"]["env_vars"]
    assert variables["AWS_REGION"] == "x"
    assert variables["DISTILL_RAY_EVENTS"] == "1"
    assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60  # Ray's own 3 s are no time for a checkpoint
    assert sent["metadata"]["output"] == "s3://b/runs/birds"
    assert (sent["entrypoint_num_cpus"], "entrypoint_num_gpus" in sent) == (2.0, False)


def test_a_job_without_files_has_a_folder_of_its_own_where_nothing_shadows_the_package():
    cluster = Cluster()
    submit_job(cluster, JobRequest(name="birds", arguments=("train", "--", "/data")), FACTS)
    folder = cluster.requests[0]["runtime_env"]["working_dir"]
    assert names(cluster.packages[folder]) == ["README"]


def test_the_entrypoint_probes_and_then_becomes_the_command():
    line = entrypoint(
        JobRequest(name="n", arguments=("train", "--", "it's here"), reads=("it's here",), writes=("/out",))
    )
    probe, _, command = line.partition(" && ")
    assert shlex.split(probe)[:4] == ["python", "-P", "-m", "distill_ray.jobs.remote_probe"]
    assert shlex.split(probe)[4] == '{"reads": ["it\'s here"], "writes": ["/out"]}'
    assert shlex.split(command) == shlex.split('exec python -P -m distill_ray train -- "it\'s here"')
    assert asked_command(line) == "distill-ray " + shlex.join(["train", "--", "it's here"])
    assert asked_command(entrypoint(JobRequest(name="n", arguments=("run",)))) == "distill-ray run"
    assert asked_command(f"echo {line}") == f"echo {line}"  # another program's


@pytest.mark.parametrize(
    ("requirement", "sent"),
    [
        ("distill-ray==0.1.0", False),
        ("Distill_Ray[dev]>=0.1", False),
        ("optuna", True),
        ("distill-rays", True),
    ],
)
def test_a_released_package_is_installed_instead_of_sent(requirement, sent):
    cluster = Cluster()
    submit_job(cluster, JobRequest(name="n", arguments=("train",), pip=(requirement,)), FACTS)
    environment = cluster.requests[0]["runtime_env"]
    assert environment["pip"] == [requirement]
    assert ("py_modules" in environment) is sent


def test_more_than_the_cluster_has_is_not_sent():
    cluster = Cluster()
    with pytest.raises(ClusterError, match=r"--entrypoint-gpus asks for 1 GPUs and .* has 0"):
        submit_job(cluster, JobRequest(name="n", arguments=("train",), gpus=1.0), FACTS)
    assert not cluster.requests
    assert not cluster.packages


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "-dash", "x" * 101, "é"])
def test_names_that_are_no_folder_or_no_id(name):
    with pytest.raises(UsageError, match="cannot name a job"):
        check_name(name)


def test_a_made_up_name_is_one_and_new():
    first, second = new_name("train-prior"), new_name("train-prior")
    check_name(first)
    assert first != second


def test_of_a_project_around_the_package_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an editable installation has it."""
    project = tmp_path / "project"
    package = project / "distill_ray"
    sent = ["__init__.py", "py.typed", "jobs/__init__.py", "jobs/submit.py"]
    sent += ["report/__init__.py", "report/page.css"]
    kept = [
        "../.env",
        "../id_rsa",
        "../settings.py",
        "../data/train.wav",
        "../secrets/__init__.py",
        ".env",
        ".env.py",
        "key.pem",
        "model.distill",
        "jobs/credentials.json",
        "jobs/page.css",
        "report/private.css",
        "jobs/old version.py",
        "jobs/submit.py.orig",
        "jobs/__pycache__/submit.cpython-311.pyc",
        ".ipynb_checkpoints/__init__.py",
        "scratch/aws_key.py",
        "scratch-2/__init__.py",
    ]
    for name in [*sent, *kept]:
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "__init__.py").write_text("secret")
    (package / "linked").symlink_to(outside)
    (package / "linked.py").symlink_to(outside / "__init__.py")
    (package / "jobs" / "gone.py").symlink_to(outside / "nothing")
    monkeypatch.setattr(submit, "_PACKAGE", package)
    assert names(package_archive()) == sorted(f"distill_ray/{name}" for name in sent)


def test_all_modules_of_the_package_are_sent():
    root = Path(submit.__file__).parents[1]
    pyproject = tomllib.loads((root.parent / "pyproject.toml").read_text("utf-8"))
    assert list(submit._DATA) == pyproject["tool"]["setuptools"]["package-data"]["distill_ray"]
    files = {*root.rglob("*.py"), *(path for pattern in submit._DATA for path in root.glob(pattern))}
    assert set(names(package_archive())) == {f"distill_ray/{path.relative_to(root)}" for path in files}
