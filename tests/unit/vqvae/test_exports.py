from __future__ import annotations

import pytest

import distill_ray.vqvae as package


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(package, name).__name__ == name
