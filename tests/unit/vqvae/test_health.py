from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from distill_ray.vqvae.health import LevelHealth, codebook_health, utilization_warnings


def test_known_counts() -> None:
    uniform, half, single, empty = codebook_health([[5, 5, 5, 5], [3, 0, 3, 0], [0, 0, 9, 0], [0, 0, 0, 0]])
    assert uniform == LevelHealth(
        utilization=1.0, perplexity=pytest.approx(4.0), dead_codes=0, entropy=pytest.approx(1.0)
    )
    assert half == LevelHealth(
        utilization=0.5, perplexity=pytest.approx(2.0), dead_codes=2, entropy=pytest.approx(0.5)
    )
    assert single == LevelHealth(utilization=0.25, perplexity=1.0, dead_codes=3, entropy=0.0)
    assert empty == LevelHealth(utilization=0.0, perplexity=0.0, dead_codes=4, entropy=0.0)


def test_takes_tensors() -> None:
    assert codebook_health(torch.tensor([[1.0, 1.0]])) == codebook_health([[1, 1]])


def test_colors_and_warnings_follow_the_thresholds() -> None:
    health = codebook_health([[1] * live + [0] * (10 - live) for live in (10, 5, 4, 3, 2)])
    assert [level.color for level in health] == ["green", "green", "yellow", "yellow", "red"]
    (warning,) = utilization_warnings(health)
    assert warning.startswith("RVQ level 4 uses 20% of its codes (8 dead)")
    low = codebook_health([[1] * live + [0] * (10 - live) for live in (1, 9, 2, 0)])
    (warning,) = utilization_warnings(low)  # one for all of them
    assert warning.startswith("RVQ levels 0, 2 and 3 use 10%, 20%, 0% of their codes (9, 8, 10 dead): use a")
    assert utilization_warnings(health[:2]) == ()


def test_health_needs_no_torch() -> None:
    code = (
        "import sys; from distill_ray.vqvae import codebook_health; codebook_health([[1, 0]]); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
