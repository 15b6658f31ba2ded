"""Settings of the user, of runs and of searches: 500 mutated and hostile TOML files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from distill_ray.config.check import check_settings
from distill_ray.config.resolve import CorpusFacts, resolve_vqvae
from distill_ray.config.toml import read_toml, write_toml
from distill_ray.errors import DistillError, UsageError
from distill_ray.runs.inputs import given_settings
from distill_ray.runs.run_folder import RunFolder, resumed_run
from distill_ray.runs.settings_file import read_settings
from distill_ray.tune.settings import SweepSettings
from tests.unit.fuzz.conftest import CASES, VALUES

SETTINGS: dict[str, Any] = {
    "run.name": "birds",
    "run.corpus": "ab" * 32,
    "run.overrides": ("training.lr", "model.codebook_size"),
    "model.size": "tiny",
    "model.codebook_size": 256,
    "model.num_quantizers": 4,
    "training.lr": 1e-3,
    "training.epochs": 3,
    "loss.stft_windows": (2048, 1024),
    "health.stop": True,
}
TEXT = write_toml(SETTINGS, {"training.lr": "override"})
FACTS = CorpusFacts(file_count=1, train_seconds=1.0, sample_rate=None, channels=None)
HOSTILE = [
    "a = " + "[" * 100_000 + "]" * 100_000,
    "a = " + "{b=" * 100_000 + "1" + "}" * 100_000,
    "[" + ".".join("a" * 100_000) + "]\nb = 1",
    ".".join("a" * 100_000) + " = 1",
    " . ".join(["'a'", '"b"'] * 20_000) + " = 1",
    "[[" + ".".join("a" * 50_000) + "]]",
    "a = " + "9" * 100_000,
    "a = 1e" + "9" * 100_000,
    "a = 9999-99-99",
    "a = 1\na = 2",
    "\x00",
    "a = '" + "x" * (2 << 20) + "'",
    "run = 3",
    "[run]\noverrides = 3",
    "[run]\noverrides = [[1], {a = 1}]",
    "[run]\nname = '../../x'",
    "model = [[1]]",
    "[model]\nsize = [[1]]\ncodebook_size = 2026-11-30\n",
    "[training]\nlr = nan\nepochs = inf\n",
]


def use(path: Path) -> Any:
    """All that is done with a file of settings before training begins."""
    given = given_settings(path, {"model.size": "tiny"})
    check_settings("train", given)
    return resolve_vqvae(FACTS, overrides=given)


def search(path: Path) -> Any:
    return SweepSettings.of(given_settings(path, {}))


def train_prior(path: Path) -> Any:
    return check_settings("train-prior", given_settings(path, {}))


def resume(path: Path) -> Any:
    path.with_name("run.toml").write_bytes(path.read_bytes())
    given = {"training.epochs": 3, "loss.stft_windows": (2048, 1024)}
    return resumed_run(RunFolder(path=path.parent), given, table="training")


def write(value: Any) -> str:
    try:
        return write_toml({**SETTINGS, "model.codebook_size": value, "run.overrides": value}, {})
    except (TypeError, ValueError):
        return repr(value)


def test_mutated_settings_are_used_or_refused(tmp_path, chance, mutated, outcome):
    path = tmp_path / "settings.toml"
    path.write_text(TEXT)
    assert not isinstance(read_toml(path), DistillError)
    refused = 0
    for index in range(CASES):
        text = write(VALUES[index]) if index < len(VALUES) else TEXT
        path.write_bytes(mutated(text.encode("utf-8", "surrogateescape"), chance))
        for read in (use, search, train_prior, read_settings, resume):
            refused += isinstance(outcome(lambda read=read: read(path)), DistillError)  # type: ignore[misc]
    assert refused > CASES // 2


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:24])
def test_hostile_settings_are_refused_at_once(tmp_path, outcome, text):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    begun = time.monotonic()
    found = [outcome(lambda read=read: read(path)) for read in (use, resume)]  # type: ignore[misc]
    assert any(isinstance(each, UsageError) for each in found)
    assert time.monotonic() - begun < 4
