"""Disks that are full at the end of a command: what fits is written, the model first, and the rest is said.

A file system in memory stands for the disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill_ray.bundle import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RATE = 44_100
Disk = Callable[[int], Path]
MB = 1_000_000
# The smallest codec of the command line.
TINY = ["--epochs", "1", "--max-minutes", "0.05", "--num-workers", "0"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounts a file system of so many bytes."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "distill-ray-test", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute of plucks."""
    folder = tmp_path_factory.mktemp("in")
    time_T = np.arange(8 * RATE) / RATE
    for number in range(4):
        noise_T = 0.01 * np.random.default_rng(number).standard_normal(len(time_T))
        tone_T = np.sin(2 * np.pi * (200 + 50 * number) * time_T) * np.exp(-(time_T * 3 % 1) * 4)
        soundfile.write(folder / f"{number}.wav", 0.3 * tone_T + noise_T, RATE)
    return folder


@pytest.fixture(scope="module")
def trained(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with what each file takes where there is room for all."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    code, said = run("train", source, "--out", folder, "--name", "m", "--size", "tiny", *TINY)
    assert code == 0, said
    return folder


def run(*command: object) -> tuple[int, str]:
    """Its exit code and what it said."""
    line = [sys.executable, "-m", "distill_ray", *map(str, command)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_corpus_that_does_not_fit_leaves_nothing(disk: Disk, source: Path) -> None:
    folder = disk(2 * MB)
    code, said = run("prepare", source, "--out", folder / "corpus")
    assert code == 2
    assert said.splitlines()[-1].startswith(
        f"error: cannot write the corpus at {folder}/corpus: No space left"
    )
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize(
    ("fits", "given_up"),
    [
        ("weights", "of the end of this run only the weights are kept"),
        ("checkpoint", "has no room for the model and the last"),
    ],
)
def test_the_model_comes_before_the_checkpoint(
    disk: Disk, source: Path, trained: Path, fits: str, given_up: str
) -> None:
    latest, model = trained / "checkpoints" / "latest", (trained / "m.distill").stat().st_size
    checkpoint = sum(file.stat().st_size for file in latest.iterdir())
    taken = {"weights": (latest / "best.safetensors").stat().st_size, "checkpoint": checkpoint}
    folder = disk(taken[fits] + model // 2)  # and half of the model
    code, said = run("train", source, "--out", folder / "run", "--name", "m", "--size", "tiny", *TINY)
    assert code == 0, said
    assert given_up in said
    assert not read_manifest(folder / "run" / "m.distill").has_prior
    assert [*(folder / "run" / "checkpoints").iterdir()] == []


def test_a_prior_comes_before_its_checkpoint(disk: Disk, source: Path, trained: Path) -> None:
    content = (trained / "m.distill").read_bytes()
    folder = disk(len(content) + 12 * MB)  # its checkpoint takes 9.7
    model = folder / "m.distill"
    model.write_bytes(content)
    code, said = run("train-prior", model, source, "--hidden-size", "128", "--layers", "2", *TINY)
    assert code == 0, said
    assert "has no room for the model and the last checkpoint" in said
    assert read_manifest(model).has_prior
