"""The spectral basis: principal components of log spectra, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_ray.vqvae.basis import SpectralBasis, mel_share


def spectra(rank: int, *, frames: int = 400) -> Tensor:
    """Log magnitudes [2, 1, S, 33] of which each code frame is a sum of `rank` patterns."""
    generator = torch.Generator().manual_seed(0)
    patterns_RV = torch.randn(rank, 4 * 33, generator=generator)
    weights_BFR = torch.randn(2, frames // 4, rank, generator=generator)
    return (weights_BFR @ patterns_RV).view(2, 1, frames, 33) - 3.0


def basis(latents: int = 8) -> SpectralBasis:
    return SpectralBasis(channels=1, bins=33, stride=4, sample_rate=16_000, latents=latents)


def fitted(log_BCSK: Tensor, latents: int = 8) -> SpectralBasis:
    made = basis(latents)
    made.fit(log_BCSK, torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_as_many_patterns_as_components_come_back(rank: int) -> None:
    log_BCSK = spectra(rank)
    made = fitted(log_BCSK)
    torch.testing.assert_close(made.log_magnitudes(made.latents(log_BCSK)), log_BCSK, atol=1e-3, rtol=0.0)


def test_components_hold_the_most_of_the_variance_in_order() -> None:
    made = fitted(spectra(20))
    latents_NL = made.latents(spectra(20)).flatten(0, 1)
    variances_L = latents_NL.var(dim=0, correction=0)
    assert torch.equal(variances_L.argsort(descending=True), torch.arange(8))
    assert float(latents_NL.square().mean()) == pytest.approx(1.0, rel=1e-4)
    values_NV = made._weighted(spectra(20)).flatten(0, 1)
    exact = torch.linalg.svdvals(values_NV - values_NV.mean(0))[:8].square().sum()
    held = (latents_NL * made.scale).square().sum()
    assert float(held / exact) == pytest.approx(1.0, rel=1e-3)


def test_equal_spectra_have_a_basis_too() -> None:
    log_BCSK = torch.full((1, 1, 40, 33), -2.0)
    made = fitted(log_BCSK)
    torch.testing.assert_close(made.log_magnitudes(made.latents(log_BCSK)), log_BCSK)


def test_fitting_twice_gives_the_same() -> None:
    first, again = fitted(spectra(20)), fitted(spectra(20))
    assert torch.equal(first.components_VL, again.components_VL)


def test_low_bins_are_worth_more() -> None:
    share_K = mel_share(1025, 44_100)
    assert float(share_K.mean()) == pytest.approx(1.0)
    assert float(share_K[0] / share_K[-1]) == pytest.approx((700 + 22_050) / 700)
