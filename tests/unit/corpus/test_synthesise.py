"""The example that renders a corpus of synthetic instruments."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[3] / "examples" / "synthesise.py"
    spec = importlib.util.spec_from_file_location("synthesise", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rendered(script: ModuleType) -> dict[str, np.ndarray]:
    files = [script.render_file(index, 2.0, seed=0, channels=1, rate=16_000) for index in range(12)]
    return {name: signal_CT[0] for name, signal_CT in files}


def centroid(signal_T: np.ndarray, rate: int) -> float:
    power = np.abs(np.fft.rfft(signal_T)) ** 2
    return float((power * np.fft.rfftfreq(len(signal_T), 1 / rate)).sum() / power.sum())


def test_files_are_sound_and_end_quietly(rendered: dict[str, np.ndarray]) -> None:
    for signal_T in rendered.values():
        assert signal_T.shape == (32_000,)
        assert np.abs(signal_T).max() == pytest.approx(0.8)
        assert np.sqrt(np.mean(signal_T**2)) > 0.02
        assert signal_T[-1] == 0
        spectrum = np.abs(np.fft.rfft(signal_T)) ** 2
        # A beep has nearly all of its power in a few bins.
        assert np.sort(spectrum)[-5:].sum() / spectrum.sum() < 0.5


def test_instruments_and_files_differ(rendered: dict[str, np.ndarray]) -> None:
    centroids = {name: centroid(signal_T, 16_000) for name, signal_T in rendered.items()}
    assert max(centroids.values()) > 6 * min(centroids.values())
    assert np.std(np.log2(list(centroids.values()))) > 0.8
    likeness = np.abs(np.corrcoef(list(rendered.values())))
    assert (likeness - np.eye(12)).max() < 0.5


def test_the_same_seed_gives_the_same_bytes(script: ModuleType, tmp_path: Path) -> None:
    options = ["--files", "6", "--seconds", "4", "--sample-rate", "8000", "--channels", "2", "--seed"]
    for name, seed in [("a", "3"), ("b", "3"), ("c", "4")]:
        script.main([str(tmp_path / name), *options, seed])
    files = {name: sorted((tmp_path / name).iterdir()) for name in "abc"}
    assert [path.name.split("-")[1] for path in files["a"]] == [f"{name}.wav" for name in script.INSTRUMENTS]
    for a, b, c in zip(*files.values(), strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert a.read_bytes() != c.read_bytes()
        assert soundfile.info(a).channels == 2
    assert sum(soundfile.info(path).duration for path in files["a"]) == pytest.approx(4.0, abs=0.01)


def test_default_lengths_are_between_3_and_8_seconds(script: ModuleType) -> None:
    for seed in range(20):
        lengths = script.durations(24, 120.0, seed)
        assert lengths.sum() == pytest.approx(120)
        assert lengths.max() < 8.5
        assert lengths.min() > 2.4
