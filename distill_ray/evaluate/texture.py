"""Texture statistics: marginal moments, cross-band correlations and modulation power of cochlear envelopes.

After McDermott and Simoncelli 2011, "Sound Texture Perception via Statistics of the Auditory Periphery":
half-cosine filters, equally wide and spaced on the ERB scale, compressed Hilbert envelopes at 400 Hz. 24
bands instead of 30; modulation power in octaves without their constant-Q filter bank, and no correlations
of modulation bands, which a window of a few seconds cannot estimate.

Legend: B windows, T samples, F frequency bins, N bands, E envelope samples, D features.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.evaluate.spectra import RATE, octave_powers

BANDS = 24
_LOW_HZ, _HIGH_HZ = 60.0, 14_000.0
_SUBBAND_RATE, _ENVELOPE_RATE = 4_800, 400
_COMPRESSION = 0.3
_QUIET = 3e-5
"""Amplitude below which an envelope counts as empty."""
_STEADY = 1e-3
"""Spread of a compressed envelope below which it counts as constant: rounding leaves that in empty bands."""
_OFFSETS = (1, 2, 3, 5, 8, 11)
_MODULATION_HZ = (0.5, 1.5, 3.0, 6.0, 12.5, 25.0, 50.0, 100.0, 200.0)


def texture(audio_BT: Tensor) -> Tensor:
    """The statistics [B, D] of mono windows at `RATE`; a gain changes none of them."""
    envelope_BNE = envelopes(audio_BT)
    mean_BN1 = envelope_BNE.mean(2, keepdim=True)
    centred_BNE = envelope_BNE - mean_BN1
    spread_BN1 = centred_BNE.square().mean(2, keepdim=True).sqrt() + _STEADY
    unit_BNE = centred_BNE / spread_BN1
    level_BN = mean_BN1[..., 0].log()
    return torch.cat(
        (
            level_BN - level_BN.mean(1, keepdim=True),
            (spread_BN1 / mean_BN1)[..., 0],
            torch.asinh(unit_BNE.pow(3).mean(2)),
            torch.asinh(unit_BNE.pow(4).mean(2) - 3),
            *((unit_BNE[:, by:] * unit_BNE[:, :-by]).mean(2) for by in _OFFSETS),
            _modulation(centred_BNE / mean_BN1),
        ),
        dim=1,
    )


def envelopes(audio_BT: Tensor) -> Tensor:
    """Compressed envelopes [B, N, E] at 400 Hz, > 0."""
    samples = audio_BT.shape[1]
    spectrum_BF = torch.fft.rfft(audio_BT)
    length = round(samples / RATE * _SUBBAND_RATE)
    bands = []
    for start, gains in _filters(samples, str(audio_BT.device)):
        # The band's bins, moved to zero frequency: its complex envelope at a rate above its bandwidth.
        band_BF = spectrum_BF[:, start : start + len(gains)] * gains
        bands.append(torch.fft.ifft(functional.pad(band_BF, (0, length - len(gains)))).abs())
    amplitude_BNS = torch.stack(bands, dim=1) * (2 * length / samples)
    compressed_BNS = (amplitude_BNS + _QUIET).pow(_COMPRESSION)
    return functional.avg_pool1d(compressed_BNS, _SUBBAND_RATE // _ENVELOPE_RATE)


def _modulation(relative_BNE: Tensor) -> Tensor:
    """Log power of pairs of bands in octaves of modulation frequency, relative to the mean squared."""
    powers_BNO = octave_powers(relative_BNE, _ENVELOPE_RATE, _MODULATION_HZ)
    pairs_BNO = (powers_BNO[:, ::2] + powers_BNO[:, 1::2]) / 2
    return (pairs_BNO + 1e-5).log().flatten(1)


@functools.lru_cache(maxsize=8)
def _filters(samples: int, device: str) -> tuple[tuple[int, Tensor], ...]:
    """First bin and gains of each half-cosine band."""
    edges = torch.linspace(_erbs(_LOW_HZ), _erbs(_HIGH_HZ), BANDS + 2, dtype=torch.float64)
    step = float(edges[1] - edges[0])
    places = _erbs_of(torch.arange(samples // 2 + 1, dtype=torch.float64) * RATE / samples)
    made = []
    for centre in edges[1:-1]:
        offset = (places - centre) / step
        inside = (offset.abs() < 1).nonzero()[:, 0]
        start, stop = int(inside[0]), int(inside[-1]) + 1
        made.append((start, torch.cos(offset[start:stop] * torch.pi / 2).float().to(device)))
    return tuple(made)


def _erbs_of(hertz: Tensor) -> Tensor:
    """Glasberg and Moore's ERB number."""
    return 9.265 * torch.log1p(hertz / (24.7 * 9.265))


def _erbs(hertz: float) -> float:
    return float(_erbs_of(torch.tensor(hertz, dtype=torch.float64)))
