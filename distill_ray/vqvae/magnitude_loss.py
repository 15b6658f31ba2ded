"""What a decoder of magnitudes (`magnitudes.py`) learns from: their cost, and the level of mel bins.

The cost of a log magnitude is its negative log likelihood under a Laplace distribution, so that the median
and the mean distance from it are what it is least at. Bins count by their share of the mel scale. The mean
magnitude of a mel bin has a term of its own, which keeps levels right where single bins are uncertain. Both
are means over windows, computed in float32.

Shapes: B batch, C channels, T samples, S STFT frames, K frequency bins, M mel bins.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.config.vqvae import LossConfig, VQVAEConfig
from distill_ray.vqvae.basis import mel_share
from distill_ray.vqvae.flow import Transport
from distill_ray.vqvae.losses import LOG_FLOOR, CodecLoss, ReconstructionLoss, mel_filters
from distill_ray.vqvae.magnitudes import LEAST_LOG_SPREAD, Magnitudes, log_magnitudes, magnitude_stft

_MEL_BINS = 160


class MagnitudeLoss(CodecLoss):
    """How far the magnitudes that a decoder expects are from a recording's.

    Args:
        config: for the transform and the sample rate.
        weights: factors of `total`.
    """

    terms: ClassVar[tuple[str, ...]] = ("magnitudes", "mel")

    def __init__(self, config: VQVAEConfig, weights: LossConfig) -> None:
        super().__init__()
        self.weights = weights
        self.stft = magnitude_stft(config)
        filters_KM = mel_filters(config.n_fft, _MEL_BINS, config.sample_rate)
        self.register_buffer("filters_KM", filters_KM, persistent=False)
        self.register_buffer("share_K", mel_share(self.stft.bins, config.sample_rate), persistent=False)

    def forward(self, pred: Magnitudes, target_BCT: Tensor) -> dict[str, Tensor]:
        """Unweighted scalar terms.

        "magnitudes": mean cost of a bin in nats, over that of the least spread without a distance, so that
        it is never negative. "mel": mean L1 distance of log10 mel magnitudes.
        """
        with torch.autocast(target_BCT.device.type, enabled=False):
            log_spread_BCSK = pred.log_spread_BCSK.float()
            log_BCSK = log_magnitudes(self.stft(target_BCT))
            apart_BCSK = (log_BCSK - pred.median_BCSK.float()).abs()
            cost_BCSK = apart_BCSK * (-log_spread_BCSK).exp() + log_spread_BCSK - LEAST_LOG_SPREAD
            magnitudes = (cost_BCSK * self.get_buffer("share_K")).mean()
            return {"magnitudes": magnitudes, "mel": self.mel(pred, log_BCSK)}

    def mel(self, pred: Magnitudes, log_BCSK: Tensor) -> Tensor:
        """Mean L1 distance of log10 mel magnitudes from those of recordings."""
        return functional.l1_loss(self._log_mel(pred.expected().float()), self._log_mel(log_BCSK.exp()))

    def _log_mel(self, magnitudes_BCSK: Tensor) -> Tensor:
        return torch.log10(magnitudes_BCSK @ self.get_buffer("filters_KM") + LOG_FLOOR)


class FlowLoss(MagnitudeLoss):
    """How far a flow's velocities are from those wanted; of held-out recordings also the level of mel bins.

    A component counts by how far it is from its mean on average, relative to that of all (`weight_D`).
    """

    terms: ClassVar[tuple[str, ...]] = ("flow",)

    @property
    def scored(self) -> tuple[str, ...]:
        return ("flow", "mel")

    def forward(self, pred: Transport, target_BCT: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Unweighted scalar terms: "flow", the mean square of a component's error in units of its deviation,
        and, where `pred` has something drawn, "mel" as for magnitudes.
        """
        with torch.autocast(target_BCT.device.type, enabled=False):
            apart_BFD = pred.velocity_BFD.float() - pred.wanted_BFD.float()
            terms = {"flow": (apart_BFD.square() * pred.weight_D).mean()}
            if pred.drawn is not None:
                terms["mel"] = self.mel(pred.drawn, log_magnitudes(self.stft(target_BCT)))
            return terms


def codec_loss(config: VQVAEConfig, weights: LossConfig) -> CodecLoss:
    """The loss that fits the decoder of `config`."""
    if config.decoder_head == "flow":
        return FlowLoss(config, weights)
    if config.decoder_head == "magnitudes":
        return MagnitudeLoss(config, weights)
    return ReconstructionLoss(config, weights)
