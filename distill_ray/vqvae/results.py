"""Named results of the quantiser (`quantizer.py`) and of the whole codec (`model.py`).

Shapes: B batch, C channels, T samples, F code frames, Q RVQ levels, L latent channels, D code dimension,
N = B · F vectors, ordered by item and then by frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class QuantizerOutput:
    """What a pass through the quantiser gives; gradients flow through `latent_BFL` and both losses."""

    latent_BFL: Tensor
    """Sum of the decoded levels in use."""
    codes_BQF: Tensor
    """int64 codes of all levels, also of those not in use."""
    commitment_loss: Tensor
    """Pulls the encoder to its codes; a mean over all vectors and levels, see `quantizer.py`."""
    codebook_loss: Tensor
    """Pulls the codes to the encoder; a constant zero with EMA codebooks."""
    residuals_QND: Tensor
    """Vectors that each level looked up, in the code space of that level, detached."""
    used_QN: Tensor
    """bool: the level is in use for this vector."""


@dataclass(frozen=True, kw_only=True)
class VQVAEOutput:
    """A pass through the codec. Fields as in `QuantizerOutput`, but for the audio."""

    audio_BCT: Tensor
    """Reconstruction, not clamped."""
    codes_BQF: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor
    residuals_QND: Tensor
    used_QN: Tensor
