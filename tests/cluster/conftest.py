"""What the tests of this folder share; a reference run is made once for those that break the like of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A codec run that has ended: its folder, the epochs that it was asked for and its last event."""

    run_dir: Path
    epochs: int
    final: dict[str, Any]


@pytest.fixture(scope="session")
def faulty() -> ModuleType:
    """faulty.py as a module."""
    spec = importlib.util.spec_from_file_location("faulty", Path(__file__).with_name("faulty.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faulty"] = module
    spec.loader.exec_module(module)
    return module


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


@pytest.fixture(scope="session")
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
