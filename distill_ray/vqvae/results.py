"""Named results of the quantiser (`quantizer.py`) and of the whole codec (`model.py`).

Shapes: B batch, C channels, T samples in audio and code frames in codes, F code frames, Q RVQ levels,
L latent channels, D code dimension, N = B · F vectors, ordered by item and then by frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distill_ray.vqvae.flow import Transport
from distill_ray.vqvae.magnitudes import Magnitudes


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What the training loop needs of a pass through the quantiser, beside the reconstruction."""

    codes_BQT: Tensor
    """int64 codes of all levels, also of those not in use."""
    commitment_loss: Tensor
    """Scalar that pulls the encoder to its codes; `quantizer.py` says over what it is a mean."""
    codebook_loss: Tensor
    """Scalar that pulls the codes to the encoder; a constant zero with EMA codebooks."""
    residuals_QND: Tensor
    """Vectors that each level looked up, in the code space of that level, detached."""
    used_QN: Tensor
    """bool: the level is in use for this vector."""


@dataclass(frozen=True, kw_only=True)
class QuantizerOutput(Quantization):
    """A pass through the quantiser."""

    latent_BFL: Tensor
    """Sum of the decoded levels in use, float32; gradients go straight through to the input."""


@dataclass(frozen=True, kw_only=True)
class VQVAEOutput(Quantization):
    """A pass through the codec."""

    decoded: Tensor | Magnitudes | Transport
    """What the loss compares with the recording: audio [B, C, T], float32, not clamped, magnitudes, or what a
    flow is learnt from.
    """

    @property
    def audio_BCT(self) -> Tensor:
        """The reconstruction of a decoder that gives audio."""
        assert isinstance(self.decoded, Tensor)
        return self.decoded
