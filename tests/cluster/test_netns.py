"""Three machines (network namespaces): a job submitted from one trains over the two others."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None,
        reason="needs root and iproute2 for network namespaces",
    ),
]

TRAINING = """
[training]
window_seconds = 0.25
min_epoch_steps = 10
val_seconds = 2.0
batch_size = 4
epochs = 2
"""


@pytest.fixture(scope="module")
def netns() -> ModuleType:
    spec = importlib.util.spec_from_file_location("netns", Path(__file__).with_name("netns.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["netns"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets lie below it."""
    path = Path(tempfile.mkdtemp(prefix="netns-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.timeout(600)
def test_a_job_from_a_third_machine_trains_over_two(
    netns: ModuleType, folder: Path, small_corpus: Path, small_model: str
) -> None:
    (folder / "settings.toml").write_text(small_model + TRAINING)
    train = ["train", small_corpus, "--config", folder / "settings.toml", "--num-workers", 2]
    with netns.machines(folder) as cluster:
        submit = [
            sys.executable, "-m", "distill_ray", "submit", "--address", netns.DASHBOARD,
            "--storage", folder / "results",
        ]  # fmt: skip
        wrong = folder / "wrong"
        wrong.write_text("0" * 64)
        wrong.chmod(0o600)
        refused = cluster.run("client", [*submit, "--token-file", wrong, "--", *train])
        assert refused.returncode != 0
        assert "token" in refused.stderr
        done = cluster.run(
            "client",
            [
                *submit, "--token-file", cluster.token_file, "--name", "three", "--json", "--",
                *train, "--gpus-per-worker", 0,
            ],
            timeout_s=500,
        )  # fmt: skip
        logs = {machine: (folder / f"{machine}.log").read_text()[-2000:] for machine in ("head", "node")}
    assert done.returncode == 0, (done.stdout, done.stderr, logs)
    document = json.loads(done.stdout)
    assert document["exit_reason"] == "completed"
    assert Path(document["model_path"]).exists()
    started = [line for line in done.stderr.splitlines() if "training codec" in line]
    assert "2 workers" in started[0]
