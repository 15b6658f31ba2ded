"""The axes on which windows are compared: one group's features, standardised and reduced by PCA on the
training audio.

Legend: N windows, D features, K components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
COMPONENTS = 16
"""Of each group, at most."""
_LEAST_VARIANCE = 1e-4
"""Components with a smaller share of the greatest one's variance are rounding."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """From one group's features to coordinates whose variances add up to 1 on the training audio."""

    mean_D: Array
    basis_DK: Array

    @classmethod
    def fit(cls, features_ND: npt.NDArray[np.float32]) -> Axes:
        """Principal components of the standardised features, with the variances that they have."""
        values_ND = features_ND.astype(np.float64)
        mean_D, spread_D = values_ND.mean(0), values_ND.std(0)
        # A feature that is constant in the training audio has no scale, so it says nothing.
        constant_D = spread_D <= 1e-4 * max(float(np.median(spread_D)), 1e-9)
        scale_D = np.where(constant_D, 0.0, 1 / np.where(constant_D, 1.0, spread_D))
        standard_ND = (values_ND - mean_D) * scale_D
        variance_D, vectors_DD = np.linalg.eigh(standard_ND.T @ standard_ND / len(standard_ND))
        order = np.argsort(variance_D)[::-1][:COMPONENTS]
        order = order[variance_D[order] >= _LEAST_VARIANCE * variance_D[order[0]]]
        total = max(float(variance_D[order].sum()), 1e-12)
        return cls(mean_D=mean_D, basis_DK=scale_D[:, None] * vectors_DD[:, order] / total**0.5)

    def __call__(self, features_ND: npt.NDArray[np.float32]) -> Array:
        coordinates_NK: Array = (features_ND.astype(np.float64) - self.mean_D) @ self.basis_DK
        return coordinates_NK
