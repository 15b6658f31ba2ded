"""The principal components of a corpus's log spectra: where a codec of magnitudes starts, in closed form.

Of the log magnitudes of a whole code frame, 64 components hold nearly all that tells one moment of a small
corpus from another, and a residual quantiser of them alone is ahead of codecs that began from nothing and
trained for a minute of a GPU (docs/measurements/2026-11-30-magnitudes.md). The encoder is the basis; the
decoder has it too and learns what is to be added.

Shapes: B batch, C channels, S STFT frames, K frequency bins, F code frames (S / stride), L latent channels,
V = C · stride · K values of a code frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MEL_CORNER_HZ = 700.0
"""Above it the mel scale is about logarithmic."""
POWER_ITERATIONS, _OVERSAMPLING = 4, 16


def mel_share(bins: int, sample_rate: int) -> Tensor:
    """[K]: what a bin of a spectrum is worth beside the mean one, by its share of the mel scale.

    Half of the bins lie above a quarter of the sample rate, where little is heard.
    """
    share_K = 1.0 / (MEL_CORNER_HZ + torch.linspace(0.0, sample_rate / 2, bins))
    return share_K / share_K.mean()


class SpectralBasis(nn.Module):
    """Linear maps between the log magnitudes of code frames and latents; zero until it is fitted.

    Args:
        channels, bins, stride, sample_rate: of the spectra, and how many frames make a code frame.
        latents: components.
        coded: latents whose mean square is one; the first of them. None: all.
    """

    mean_V: Tensor
    components_VL: Tensor
    scale: Tensor
    weight_K: Tensor

    def __init__(
        self,
        *,
        channels: int,
        bins: int,
        stride: int,
        sample_rate: int,
        latents: int,
        coded: int | None = None,
    ) -> None:
        super().__init__()
        self._coded = coded
        self._shape = (channels, stride, bins)
        values = channels * stride * bins
        self.register_buffer("mean_V", torch.zeros(values))
        self.register_buffer("components_VL", torch.zeros(values, latents))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("weight_K", mel_share(bins, sample_rate).sqrt(), persistent=False)

    @torch.no_grad()
    def fit(
        self, log_BCSK: Tensor, generator: torch.Generator, goes_on: Callable[[str], bool] = lambda what: True
    ) -> None:
        """Take the principal components of these log magnitudes, by the randomised method of Halko,
        Martinsson & Tropp 2011; latents, as far as they are coded, get a mean square of one.

        Args:
            log_BCSK: S is a multiple of the stride.
            generator: CPU generator in the same state on every rank.
            goes_on: as for `VQVAE.initialise`.
        """
        values_NV = self._weighted(log_BCSK).flatten(0, 1)
        self.mean_V.copy_(values_NV.mean(0))
        centred_NV = values_NV - self.mean_V
        count = min(self.components_VL.shape[1], *centred_NV.shape)
        tried = min(count + _OVERSAMPLING, *centred_NV.shape)
        sketch_VL = torch.randn(centred_NV.shape[1], tried, generator=generator).to(centred_NV)
        for iteration in range(POWER_ITERATIONS):
            if not goes_on("components of the spectra") and iteration:
                break
            sketch_VL = torch.linalg.qr(centred_NV.T @ (centred_NV @ sketch_VL)).Q
        self.components_VL.zero_()
        _, _, rotated_LL = torch.linalg.svd(centred_NV @ sketch_VL, full_matrices=False)
        self.components_VL[:, :count] = sketch_VL @ rotated_LL[:count].T
        latents_NL = centred_NV @ self.components_VL[:, : self._coded]
        self.scale.copy_(latents_NL.square().mean().sqrt().clamp(min=1e-3))

    @torch.no_grad()
    def take(self, other: SpectralBasis) -> None:
        """Be the first components of another basis of the same spectra."""
        self.mean_V.copy_(other.mean_V)
        self.components_VL.copy_(other.components_VL[:, : self.components_VL.shape[1]])
        self.scale.copy_(other.scale)

    def latents(self, log_BCSK: Tensor) -> Tensor:
        """[B, F, L] of log magnitudes."""
        with torch.autocast(log_BCSK.device.type, enabled=False):
            latents_BFL: Tensor = (self._weighted(log_BCSK) - self.mean_V) @ self.components_VL / self.scale
            return latents_BFL

    def log_magnitudes(self, latent_BFL: Tensor) -> Tensor:
        """[B, C, S, K] of latents."""
        with torch.autocast(latent_BFL.device.type, enabled=False):
            values_BFV = self.scale * latent_BFL.float() @ self.components_VL.T + self.mean_V
            parts = values_BFV.view(*values_BFV.shape[:2], *self._shape).permute(0, 2, 1, 3, 4)
            return parts.flatten(2, 3) / self.weight_K

    def _weighted(self, log_BCSK: Tensor) -> Tensor:
        """[B, F, V]."""
        channels, stride, bins = self._shape
        parts = (log_BCSK.float() * self.weight_K).reshape(len(log_BCSK), channels, -1, stride, bins)
        return parts.permute(0, 2, 1, 3, 4).flatten(2)
