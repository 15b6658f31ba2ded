"""Seeded audio for the corpus tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill_ray.config.corpus import CorpusConfig

RATE = 8_000


@pytest.fixture
def config() -> CorpusConfig:
    return CorpusConfig(sample_rate=RATE, channels=1)


@pytest.fixture
def write_tone(tmp_path: Path) -> Callable[..., Path]:
    """Write a noisy tone to `name` below the test's `audio` folder; other seeds give other content."""

    def write(
        name: str, seconds: float = 0.5, *, seed: int = 0, rate: int = RATE, channels: int = 1, **options: str
    ) -> Path:
        rng = np.random.default_rng(seed)
        time_T1 = np.arange(int(seconds * rate))[:, None] / rate
        tone_TC = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 900, channels) * time_T1)
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone_TC + rng.normal(0, 0.05, tone_TC.shape), rate, **options)
        return path

    return write


@pytest.fixture
def audio_folder(tmp_path: Path, write_tone: Callable[..., Path]) -> Path:
    """Twelve files of 0.1 to 1.2 s."""
    for index in range(12):
        write_tone(f"tone{index:02d}.wav", 0.1 * (index + 1), seed=index)
    return tmp_path / "audio"
