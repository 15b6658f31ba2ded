"""What a prior is asked for, beside a prompt.

Legend: B batch, K codebook size, S sequence steps, L codes in a step, E hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What is asked for, and how firmly: classifier-free guidance (Ho and Salimans 2022).

    condition_E: what it adds to the inputs (`CodePrior.condition`). Codes are drawn from the logits
    u + scale · (c - u) of c with it and u without. That takes two rows for each sound, all with it before
    all without, unless `scale` is 1.
    """

    condition_E: Tensor
    scale: float = 1.0

    @property
    def is_double(self) -> bool:
        """Whether each sound takes two rows."""
        return self.scale != 1.0

    def condition_B1E(self, batch: int) -> Tensor:
        """For the rows of `batch` sounds."""
        rows = 2 * batch if self.is_double else batch
        condition_B1E = self.condition_E.expand(rows, 1, -1)
        if not self.is_double:
            return condition_B1E
        with_B11 = torch.arange(rows, device=condition_B1E.device)[:, None, None] < batch
        return condition_B1E * with_B11

    def rows(self, inputs_BLS: Tensor) -> Tensor:
        """Inputs of the rows."""
        return inputs_BLS.repeat(2, 1, 1) if self.is_double else inputs_BLS

    def joined(self, logits_BLK: Tensor) -> Tensor:
        """Logits of the sounds from those of their rows."""
        if not self.is_double:
            return logits_BLK
        with_BLK, without_BLK = logits_BLK.float().chunk(2)
        return torch.lerp(without_BLK, with_BLK, self.scale)
