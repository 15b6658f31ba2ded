"""Changes of pitch and timbre of training windows, as spectra; `vq_batch.py` draws and applies them.

A corpus of a minute has few notes and few timbres, and a codec learns those by heart. Played at another
speed, or through an equaliser, a recording is still a plausible one.

Shapes: B windows, C channels, S samples before and T after a change of speed, K frequency bins, P points of
an equaliser's curve.
"""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 512
"""Samples to give and take away on both ends: the transform joins the ends, which rings near them."""
POINTS = 8
"""Points of an equaliser's curve, an octave apart up to the Nyquist frequency."""
_STEPS = 64
"""A change of speed is a multiple of about one part in so many."""


def source_samples(samples: int, speed: float) -> int:
    """Samples of the recording that become `samples` at about `speed`, both with margins: an even number.

    Of few numbers, about a quarter of a semitone apart: a GPU plans a transform for each length, which takes
    it longer than the transform.
    """
    whole = samples + 2 * MARGIN
    grid = max(2, 1 << ((whole // _STEPS).bit_length() - 1))
    return grid * round(whole * speed / grid)


def changed(audio_BCS: Tensor, samples: int, gains_BK: Tensor | None = None) -> Tensor:
    """The windows `audio_BCS` with both margins, played in `samples`: [B, C, samples].

    Faster or slower by S over `samples` with its margins, band-limited (the spectrum is cut or padded), and
    through an `equaliser` for `samples`.
    """
    whole = samples + 2 * MARGIN
    spectra_BCK = torch.fft.rfft(audio_BCS)
    kept = min(spectra_BCK.shape[-1], whole // 2 + 1)
    spectra_BCK = spectra_BCK[..., :kept] * (whole / audio_BCS.shape[-1])
    if gains_BK is not None:
        spectra_BCK = spectra_BCK * gains_BK[:, None, :kept]
    played: Tensor = torch.fft.irfft(spectra_BCK, n=whole)[..., MARGIN : MARGIN + samples]
    return played


def equaliser(gains_BP: Tensor, samples: int) -> Tensor:
    """Linear gains [B, K] of the bins of `samples` with their margins, from 0 Hz to Nyquist: between points,
    an octave apart, straight in dB over the logarithm of frequency, and level below the first.
    """
    points, bins = gains_BP.shape[1], samples // 2 + MARGIN + 1
    frequency_K = torch.linspace(0.0, 1.0, bins, dtype=gains_BP.dtype, device=gains_BP.device)
    place_K = (frequency_K.clamp(min=2.0 ** (1 - points)).log2() + points - 1).clamp(max=points - 1)
    low_K = place_K.floor().long().clamp(max=points - 2)
    decibels_BK = torch.lerp(gains_BP[:, low_K], gains_BP[:, low_K + 1], place_K - low_K)
    gains_BK: Tensor = torch.pow(10.0, decibels_BK / 20.0)
    return gains_BK
