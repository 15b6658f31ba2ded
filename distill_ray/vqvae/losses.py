"""Reconstruction losses: multi-scale log-mel, levels of bands, power-compressed complex STFT, waveform.

Without the complex term the phase stays wrong and SI-SDR far below zero; its balance against the mel term
decides how soon the phase is learned, so the terms are means over windows and the complex one has the scale
of an unnormalised STFT (ARCHITECTURE.md has figures). Where the phase cannot be coded, at high frequencies,
the least L1 distance of complex numbers is silence, and the term would fight the mel term about the level:
there it compares magnitudes. Nor can every mel bin be coded there; how loud a band as wide as the ear's
filters is over 93 ms can, and has a term of its own. Every loss is a mean over items, so that the mean over
DDP ranks with equal shards is the loss of the joined batch, and is computed in float32 also under autocast.

Shapes: B batch, C channels (stereo adds mid and side), T samples, F frames, K frequency bins, M mel bins.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from distill_ray.config.vqvae import LossConfig, VQVAEConfig
from distill_ray.vqvae import kernels
from distill_ray.vqvae.spectral import MAGNITUDE_FLOOR, Stft, compress

MEL_WINDOWS = (128, 256, 512, 1024, 2048)
COMPLEX_WINDOWS = (512, 2048)
OVERLAP = 4
"""Windows over hop of the loss transforms."""
MEL_BINS = {128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}
"""Mel bins of each window, as in DAC (Kumar et al. 2023, section 3.4)."""
BANDS = 40
"""At 44.1 kHz 10 % of their frequency apart, about as wide as the ear's filters (Glasberg and Moore 1990)."""
BAND_SECONDS = 0.093
"""A level's window is the power of two of samples nearest to this; ViSQOL's is 80 ms."""
LOG_FLOOR = 1e-5
"""Added to mel magnitudes before the logarithm: about the noise of 16-bit rounding."""
TINY = 1e-12
MAGNITUDE_SHARE = 0.5
"""Weight of a bin's distance of magnitudes beside the mean distance of real and imaginary parts."""


class CodecLoss(nn.Module):
    """What a codec learns from: named terms of what its decoder gives, and their weighted sum."""

    terms: ClassVar[tuple[str, ...]]
    weights: LossConfig

    @property
    def scored(self) -> tuple[str, ...]:
        """The terms of held-out recordings: also what is told and not learnt from."""
        return self.terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the terms that `forward` gives."""
        weighted: list[Tensor] = [getattr(self.weights, term) * terms[term] for term in self.terms]
        return functools.reduce(torch.add, weighted)


class ReconstructionLoss(CodecLoss):
    """How far a reconstruction is from its original; a decoder of magnitudes has `magnitude_loss.py`.

    Args:
        config: for sample rate and compression exponent.
        weights: factors of `total`.
    """

    terms = ("mel", "bands", "complex_stft", "waveform")

    def __init__(self, config: VQVAEConfig, weights: LossConfig) -> None:
        super().__init__()
        self.weights = weights
        self.compression = config.compression
        self.sample_rate = config.sample_rate
        self.transforms = nn.ModuleDict(
            {str(window): Stft(window, window // OVERLAP) for window in MEL_WINDOWS}
        )
        band_window = 2 ** round(math.log2(BAND_SECONDS * config.sample_rate))
        self.band_transform = Stft(band_window, band_window // OVERLAP)
        band_filters_KM = mel_filters(band_window, BANDS, config.sample_rate)
        self.register_buffer("band_filters", band_filters_KM, persistent=False)
        self._windows: tuple[Any, ...] | None = None  # made when kernels first need them
        for window in MEL_WINDOWS:
            filters_KM = mel_filters(window, MEL_BINS[window], config.sample_rate)
            self.register_buffer(f"filters_{window}", filters_KM, persistent=False)

    def forward(self, pred_BCT: Tensor, target_BCT: Tensor) -> dict[str, Tensor]:
        """Unweighted scalar terms of equally shaped audio.

        "mel": mean over windows of the L1 distance of log10 mel magnitudes. "bands": the same distance of
        `BANDS` mel bins of one window of `BAND_SECONDS`. "complex_stft": mean over windows of the L1 distance
        of compressed real and imaginary parts, above `phase_hz` of compressed magnitudes, at the scale of an
        unnormalised Hann STFT. "waveform": L1 distance of samples.
        """
        with torch.autocast(pred_BCT.device.type, enabled=False):
            pred_BCT, target_BCT = _views(pred_BCT.float()), _views(target_BCT.float())
            spectral = self._fused if kernels.usable(pred_BCT) else self._plain
            mel, bands, complex_stft = spectral(pred_BCT, target_BCT)
            waveform = functional.l1_loss(pred_BCT, target_BCT)
            return {"mel": mel, "bands": bands, "complex_stft": complex_stft, "waveform": waveform}

    def _plain(self, pred_BCT: Tensor, target_BCT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mel, complex_stft = pred_BCT.new_zeros(()), pred_BCT.new_zeros(())
        for window in MEL_WINDOWS:
            transform = self._transform(window)
            pred_z, target_z = _spectra(pred_BCT, transform), _spectra(target_BCT, transform)
            mel = mel + self._log_distance(pred_z, target_z, f"filters_{window}")
            if window in COMPLEX_WINDOWS:
                complex_stft = complex_stft + self._compressed_distance(pred_z, target_z, window)
        pred_z, target_z = (_spectra(audio_BCT, self.band_transform) for audio_BCT in (pred_BCT, target_BCT))
        bands = self._log_distance(pred_z, target_z, "band_filters")
        return mel / len(MEL_WINDOWS), bands, complex_stft / len(COMPLEX_WINDOWS)

    def _fused(self, pred_BCT: Tensor, target_BCT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from distill_ray.vqvae.kernels.losses import Scales, Window, spectral_losses

        if self._windows is None or self._windows[0].window_N.device != pred_BCT.device:
            mels = [
                Window(
                    self._transform(window).window,
                    self._transform(window).hop,
                    self.get_buffer(f"filters_{window}"),
                    complex_term=window in COMPLEX_WINDOWS,
                    phases=self._phases(window),
                    gain=self._transform(window).gain,
                )
                for window in MEL_WINDOWS
            ]
            bands = self.band_transform
            self._windows = (
                *mels,
                Window(bands.window, bands.hop, self.get_buffer("band_filters"), levels=True),
            )
        scales = Scales(
            tiny=TINY,
            log_floor=LOG_FLOOR,
            exponent=self.compression,
            floor=MAGNITUDE_FLOOR,
            magnitude_share=MAGNITUDE_SHARE,
        )
        return spectral_losses(pred_BCT.flatten(0, 1), target_BCT.flatten(0, 1), self._windows, scales)

    def _transform(self, window: int) -> Stft:
        transform = self.transforms[str(window)]
        assert isinstance(transform, Stft)
        return transform

    def _compressed_distance(self, pred_BCFK: Tensor, target_BCFK: Tensor, window: int) -> Tensor:
        gain, phases = self._transform(window).gain, self._phases(window)
        pred_BCFK, target_BCFK = (
            compress(gain * spectra, self.compression) for spectra in (pred_BCFK, target_BCFK)
        )
        parts = torch.view_as_real(pred_BCFK - target_BCFK)[..., :phases, :].abs().sum() / 2
        lengths = [_magnitude(spectra[..., phases:]) for spectra in (pred_BCFK, target_BCFK)]
        return (parts + MAGNITUDE_SHARE * (lengths[0] - lengths[1]).abs().sum()) / pred_BCFK.numel()

    def _phases(self, window: int) -> int:
        """How many frequency bins, from 0 Hz on, are compared with their phases."""
        return min(window // 2, int(self.weights.phase_hz * window / self.sample_rate)) + 1

    def _log_distance(self, pred_BCFK: Tensor, target_BCFK: Tensor, filters: str) -> Tensor:
        filters_KM = self.get_buffer(filters)
        pred_BCFM, target_BCFM = (
            torch.log10(_magnitude(spectra) @ filters_KM + LOG_FLOOR) for spectra in (pred_BCFK, target_BCFK)
        )
        return functional.l1_loss(pred_BCFM, target_BCFM)


def _spectra(audio_BCT: Tensor, transform: Stft) -> Tensor:
    """Spectra of audio whose last hop may be incomplete."""
    spectra: Tensor = transform(functional.pad(audio_BCT, (0, -audio_BCT.shape[-1] % transform.hop)))
    return spectra


def _magnitude(spectra: Tensor) -> Tensor:
    """Magnitudes whose derivative at zero is finite."""
    return (spectra.real.square() + spectra.imag.square() + TINY).sqrt()


def _views(audio_BCT: Tensor) -> Tensor:
    """The channels, and for stereo mid and side too, which carry what a listener hears of the image."""
    if audio_BCT.shape[1] != 2:
        return audio_BCT
    left, right = audio_BCT[:, :1], audio_BCT[:, 1:]
    return torch.cat([audio_BCT, (left + right) / 2, (left - right) / 2], dim=1)


def mel_filters(window: int, bins: int, sample_rate: int) -> Tensor:
    """Filter bank float32 [K, M] whose filters each sum to one, so that a mel value is a mean magnitude.

    Filters too narrow to hold a frequency bin (low ones, at high sample rates) are left out.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        filters_KM: Tensor = melscale_fbanks(
            window // 2 + 1, 0.0, sample_rate / 2, bins, sample_rate, norm=None, mel_scale="slaney"
        )
    sums_M = filters_KM.sum(0)
    held_M = sums_M > 0
    return filters_KM[:, held_M] / sums_M[held_M]
