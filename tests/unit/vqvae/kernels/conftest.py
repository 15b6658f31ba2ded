"""The kernels on the GPU where there is one, and otherwise in Triton's interpreter (`tests/conftest.py`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from distill_ray.vqvae import kernels


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def kernels_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules take their kernels, on a CPU too."""
    monkeypatch.setattr(kernels, "missing", lambda device_type: "")
    with kernels.enabled():
        yield


@pytest.fixture
def assert_near():
    """Relative distance in norm, which a wrong gradient fails and rounding does not."""

    def check(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
        assert found.shape == expected.shape
        distance = (found.detach() - expected.detach()).double().norm()
        assert distance <= tolerance * expected.detach().double().norm(), float(distance)

    return check
