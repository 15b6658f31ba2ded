"""What the tests of this folder share; a reference run is made once for those that break the like of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from distill_ray.config.corpus import CorpusConfig

RATE = 8_000
EPOCHS = 6
_FAULTS = (
    "| fault | noticed, s | trains again, s | steps made twice | final held-out loss | undisturbed |\n"
    "|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A codec run that has ended: its folder, the epochs that it was asked for and its last event."""

    run_dir: Path
    epochs: int
    final: dict[str, Any]


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def faulty() -> ModuleType:
    """faulty.py as a module."""
    return _module("faulty")


@pytest.fixture
def client(head: Head, tmp_path: Path) -> Iterator[Any]:
    """A user of the head, `client.Client`, in a folder of their own."""
    made = _module("client").Client(head.environment, tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


@pytest.fixture
def row() -> Callable[..., None]:
    """Adds a row to the table of faults; `undisturbed` is how the run ends to which nothing happens."""

    def add(fault: str, recovery: Any, final: dict[str, Any], undisturbed: dict[str, Any]) -> None:
        path = os.environ.get("DISTILL_RAY_FAULT_TABLE")
        text = (
            f"| {fault} | {recovery.noticed_s:.1f} | {recovery.resumed_s:.1f} | {recovery.lost_steps} | "
            f"{final['final_val_loss']!r} | {undisturbed['final_val_loss']!r} |\n"
        )
        print(text)
        if path:
            new = not Path(path).exists()
            with Path(path).open("a") as table:
                table.write(_FAULTS * new + text)

    return add


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six recordings of 1.5 s."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(6):
        rng = np.random.default_rng(number)
        time_ = np.arange(round(1.5 * RATE)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * 110 * 2 ** rng.uniform(0, 3) * time_)
        soundfile.write(folder / f"{number}.wav", tone + 0.02 * rng.standard_normal(len(time_)), RATE)
    return folder


@pytest.fixture(scope="session")
def small_corpus(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared `recordings`."""
    from distill_ray.corpus import prepare_corpus

    folder = tmp_path_factory.mktemp("corpus")
    prepare_corpus(
        [recordings], folder, config=CorpusConfig(sample_rate=RATE, channels=1, val_fraction=0.3), workers=1
    )
    return folder


@pytest.fixture(scope="session")
def small_model() -> str:
    """TOML of a codec that `small_corpus` is enough for."""
    return """
[model]
width = 16
encoder_blocks = 1
decoder_blocks = 1
latent_dim = 16
n_fft = 256
hop = 64
codebook_size = 16
num_quantizers = 2
"""


@pytest.fixture(scope="session")
def undisturbed(faulty: ModuleType, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run that nothing happens to: two ranks on one node, a private Ray."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    run = faulty.CodecRun(run_dir, small_corpus, workers="2", address=None, epochs=EPOCHS)
    return Finished(run_dir=run_dir, epochs=EPOCHS, final=run.result()["final"])


@dataclass(frozen=True, kw_only=True)
class Head:
    """A running Ray head of two CPUs that takes jobs; `environment` names it and its token to a client."""

    url: str
    token_file: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")  # an idle one takes a twentieth of a core
def head() -> Iterator[Head]:
    """head.py as a process; everything of it ends with the tests."""
    program = Path(__file__).with_name("head.py")
    # A job's `python` is found on the PATH of the head.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [sys.executable, program, "2"],
        env={**os.environ, "PATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        yield Head(
            url=facts["dashboard"],
            token_file=Path(facts["token_file"]),
            environment={
                **os.environ,
                "RAY_API_SERVER_ADDRESS": facts["dashboard"],
                "RAY_AUTH_TOKEN_PATH": facts["token_file"],
            },
        )
        process.communicate()
