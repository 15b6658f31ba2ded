"""Distances between two sets of windows in a space of features; NumPy in float64, on the CPU.

Fréchet distance of Gaussians (Heusel et al. 2017, "FID"; Kilgour et al. 2019, "FAD"), unbiased squared MMD
(Gretton et al. 2012; Bińkowski et al. 2018, "KID", here with an RBF kernel), density and coverage (Naeem et
al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models").

Legend: N, M windows, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean and covariance of a set of windows."""

    mean_D: Array
    covariance_DD: Array

    @classmethod
    def fit(cls, windows_ND: Array) -> Gaussian:
        """By Ledoit and Wolf 2004: the sample covariance, shrunk towards a multiple of the identity.

        The fewer windows there are for the dimensions, the more: with fewer windows than dimensions the
        distance stays finite and mostly compares means and total spread.
        """
        mean_D = windows_ND.mean(0)
        centred_ND = windows_ND - mean_D
        count, dimensions = centred_ND.shape
        sample_DD = centred_ND.T @ centred_ND / count
        scale = np.trace(sample_DD) / dimensions
        identity_DD = np.eye(dimensions)
        off = float(np.square(sample_DD - scale * identity_DD).sum())
        square_ND = np.square(centred_ND)
        error = float((square_ND.T @ square_ND).sum() / count - np.square(sample_DD).sum()) / count
        weight = 1.0 if off <= 0 else min(1.0, max(0.0, error / off))
        return cls(mean_D=mean_D, covariance_DD=(1 - weight) * sample_DD + weight * scale * identity_DD)

    @cached_property
    def root_DD(self) -> Array:
        """Square root of the covariance."""
        values_D, vectors_DD = np.linalg.eigh(self.covariance_DD)
        root_DD: Array = (vectors_DD * np.sqrt(np.clip(values_D, 0, None))) @ vectors_DD.T
        return root_DD


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, ≥ 0."""
    product_DD = one.root_DD @ other.covariance_DD @ one.root_DD
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(product_DD), 0, None)).sum()
    spread = np.trace(one.covariance_DD) + np.trace(other.covariance_DD) - 2 * shared
    return max(0.0, float(np.square(one.mean_D - other.mean_D).sum() + spread))


def kernel_width(windows_ND: Array) -> float:
    """Median distance of two windows, of at most a thousand: the width that is fixed for a reference."""
    some_ND = windows_ND[:: -(-len(windows_ND) // 1000)]
    distances = np.sqrt(_squares(some_ND, some_ND)[np.triu_indices(len(some_ND), 1)])
    return max(float(np.median(distances)), 1e-6)


def kernel_distance(one_ND: Array, other_MD: Array, width: float) -> float:
    """Unbiased squared MMD with the kernel exp(−d² / 2 width²); it can be below zero by chance."""

    def kernel(left: Array, right: Array) -> Array:
        return np.exp(_squares(left, right) / (-2 * width * width))

    count, others = len(one_ND), len(other_MD)
    within = (kernel(one_ND, one_ND).sum() - count) / (count * (count - 1))
    within += (kernel(other_MD, other_MD).sum() - others) / (others * (others - 1))
    return float(within - 2 * kernel(one_ND, other_MD).mean())


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a set lies in the neighbourhoods of a reference."""

    coverage: float
    density: float


def coverage_and_density(one_ND: Array, reference_MD: Array) -> Spread:
    """With k = `NEIGHBOURS`; meant for sets of equal counts, of more than k windows each."""
    own_MM = _squares(reference_MD, reference_MD)
    np.fill_diagonal(own_MM, np.inf)
    radius_M = np.partition(own_MM, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
    inside_NM = _squares(one_ND, reference_MD) <= radius_M
    return Spread(
        coverage=float(inside_NM.any(0).mean()), density=float(inside_NM.sum() / (NEIGHBOURS * len(one_ND)))
    )


def _squares(one_ND: Array, other_MD: Array) -> Array:
    squares_NM: Array = (
        np.square(one_ND).sum(1)[:, None] + np.square(other_MD).sum(1) - 2 * one_ND @ other_MD.T
    )
    return np.clip(squares_NM, 0, None)
