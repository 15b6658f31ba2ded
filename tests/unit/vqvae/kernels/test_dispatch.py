from __future__ import annotations

import pytest
import torch

from distill_ray.vqvae import kernels


def test_kernels_are_off_unless_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "missing", lambda device_type: "")
    x = torch.zeros(3)
    assert not kernels.usable(x)
    with kernels.enabled():
        assert kernels.usable(x)
        with kernels.enabled():
            pass
        assert kernels.usable(x)
    assert not kernels.usable(x)


def test_a_cpu_has_none_and_says_so() -> None:
    assert kernels.missing("cpu") == "no CUDA device"
    with kernels.enabled():
        assert not kernels.usable(torch.zeros(3))


def test_what_32_bits_cannot_count_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "missing", lambda device_type: "")
    with kernels.enabled():
        assert not kernels.usable(torch.zeros(1).expand(2**27 + 1))


def test_products_have_the_dtype_of_autocast() -> None:
    x = torch.zeros(3)
    assert kernels.product_dtype(x) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels.product_dtype(x) == torch.bfloat16
