"""Linear regression with a ridge (Hoerl & Kennard 1970).

Shapes: N samples, E inputs, G outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-2
"""Of the mean variance of the inputs: what is added to each."""


def ridge(input_NE: Tensor, output_NG: Tensor) -> Tensor:
    """Weights [E, G] of centred inputs, for centred outputs."""
    products_EE = input_NE.T @ input_NE
    products_EE.diagonal().add_(RIDGE * products_EE.diagonal().mean().clamp(min=1e-12))
    weight_EG: Tensor = torch.linalg.solve(products_EE, input_NE.T @ output_NG)
    return weight_EG
