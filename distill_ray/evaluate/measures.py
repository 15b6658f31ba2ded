"""Distances between a reconstruction and its original, as codec papers report them.

`evaluate.py` applies them to a corpus. The spectral distances are those of the Descript Audio Codec (DAC,
Kumar et al. 2023, "High-Fidelity Audio Compression with Improved RVQGAN", section 4.2), with the settings
of its published 44.1 kHz configuration, so that numbers can be put beside those of other codecs:

- STFTs with a periodic Hann window, hop = window / 4, centred frames with reflected edges;
- mel distance: 5…320 Slaney mel bands (area-normalised) of windows 32…2048, mean absolute difference of
  log10 of magnitudes clamped at 1e-5, summed over the seven scales; no linear term;
- STFT distance: windows 2048 and 512, the same difference of log10 of *squared* magnitudes plus the mean
  absolute difference of the magnitudes, summed over both scales.

DAC scores at 44.1 kHz; here the signals' own rate is used, which is the same for 44.1 kHz models.

Legend: C channels, T samples, F frequency bins, M mel bands, S frames.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
"""(window, mel bands) of each scale of the mel distance."""
STFT_WINDOWS = (2048, 512)
CLAMP = 1e-5
DECIBEL_LIMIT = 100.0
"""SI-SDR is reported within ± this: an exact copy would be infinite, a silent estimate minus infinite."""


@dataclass(frozen=True, kw_only=True)
class SpectralAnalysis:
    """The spectra of one signal that the distances compare; reusable for many estimates of an original."""

    log_mels: tuple[Tensor, ...]
    """One [C, S, M] for each of `MEL_SCALES`."""
    magnitudes: tuple[Tensor, ...]
    """One [C, F, S] for each of `STFT_WINDOWS`."""


class SpectralMeasure:
    """Mel and STFT distance at one sample rate, on one device."""

    def __init__(self, sample_rate: int, device: torch.device | str = "cpu") -> None:
        self._filters = [mel_filters(window, bands, sample_rate).to(device) for window, bands in MEL_SCALES]
        windows = {window for window, _ in MEL_SCALES} | set(STFT_WINDOWS)
        self._windows = {window: torch.hann_window(window, device=device) for window in windows}

    def analyse(self, signal_CT: Tensor) -> SpectralAnalysis:
        """The spectra of floats in [-1, 1], T ≥ 1."""
        magnitudes = {window: self._magnitude(signal_CT, window) for window in self._windows}
        log_mels = tuple(
            (magnitudes[window].transpose(1, 2) @ filters_FM).clamp(min=CLAMP).log10()
            for (window, _), filters_FM in zip(MEL_SCALES, self._filters, strict=True)
        )
        return SpectralAnalysis(
            log_mels=log_mels, magnitudes=tuple(magnitudes[window] for window in STFT_WINDOWS)
        )

    def _magnitude(self, signal_CT: Tensor, window: int) -> Tensor:
        # Reflection needs more samples than it mirrors; a shorter signal goes on as silence.
        missing = window // 2 + 1 - signal_CT.shape[1]
        if missing > 0:
            signal_CT = functional.pad(signal_CT, (0, missing))
        return torch.stft(
            signal_CT,
            n_fft=window,
            hop_length=window // 4,
            window=self._windows[window],
            center=True,
            pad_mode="reflect",
            return_complex=True,
        ).abs()


def mel_distance(estimate: SpectralAnalysis, original: SpectralAnalysis) -> float:
    """Multi-scale mel distance (module docstring); 0 for equal signals, lower is better."""
    pairs = zip(estimate.log_mels, original.log_mels, strict=True)
    return sum(float((one - other).abs().mean()) for one, other in pairs)


def stft_distance(estimate: SpectralAnalysis, original: SpectralAnalysis) -> float:
    """Multi-scale STFT distance (module docstring); 0 for equal signals, lower is better."""
    total = 0.0
    for one, other in zip(estimate.magnitudes, original.magnitudes, strict=True):
        logs = 2.0 * (one.clamp(min=CLAMP).log10() - other.clamp(min=CLAMP).log10())
        total += float(logs.abs().mean()) + float((one - other).abs().mean())
    return total


class SiSdr:
    """Scale-invariant signal-to-distortion ratio of a signal given piece by piece.

    Le Roux et al. 2019, "SDR – Half-Baked or Well Done?", equation 3, of zero-mean signals; the channels
    are taken as one signal, as DAC does. Only sums are kept, in float64, so that a file of any length has
    its exact value.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums = [0.0] * 5

    def add(self, estimate_CT: Tensor, original_CT: Tensor) -> None:
        """Take in the next piece of both signals, equally shaped."""
        assert estimate_CT.shape == original_CT.shape, "SI-SDR compares signals of one shape"
        one, other = estimate_CT.double(), original_CT.double()
        parts = (one.sum(), other.sum(), (one * one).sum(), (other * other).sum(), (one * other).sum())
        self._count += one.numel()
        self._sums = [total + float(part) for total, part in zip(self._sums, parts, strict=True)]

    @property
    def decibels(self) -> float:
        """10 log10 of target over distortion energy, within ± `DECIBEL_LIMIT`."""
        assert self._count, "SI-SDR of nothing"
        one, other, ones, others, both = (total / self._count for total in self._sums)
        energy, original, cross = ones - one * one, others - other * other, both - one * other
        if energy <= 0.0 or original <= 0.0 or cross == 0.0:
            return -DECIBEL_LIMIT
        target = cross * cross / original
        distortion = max(energy - target, target * 10 ** (-DECIBEL_LIMIT / 10))
        return max(-DECIBEL_LIMIT, 10.0 * math.log10(target / distortion))


def si_sdr(estimate_CT: Tensor, original_CT: Tensor) -> float:
    """`SiSdr` of two whole signals in dB, higher is better."""
    measure = SiSdr()
    measure.add(estimate_CT, original_CT)
    return measure.decibels


def mel_filters(window: int, bands: int, sample_rate: int) -> Tensor:
    """Area-normalised Slaney mel filters [F, M]; low bands that hold no bin of a short window are zero."""
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        filters_FM: Tensor = melscale_fbanks(
            window // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, norm="slaney", mel_scale="slaney"
        )
    return filters_FM
