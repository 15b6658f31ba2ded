"""Tonality: do narrow bands hold partials or noise, do partials last, which pitches are there.

Legend: B windows, F frequency bins of 7.8 Hz, S frames of 32 ms, L lags, C pitch classes, D features.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from distill_ray.evaluate.spectra import FINE_FRAME, RATE, Spectra

_LOWEST_BAND_HZ, _HALF_OCTAVES = 125.0, 13
_APART = 4
"""Frames between two that share no sample."""
_QUIET = 1e-11
"""Power of a bin below which nothing is heard."""
_PITCH_HZ = (60.0, 1000.0)
_SHARPNESS = 30.0
"""How much more a lag of the autocorrelation counts that is higher."""
_CHROMA_HZ = (110.0, 4000.0)


def tonality(seen: Spectra) -> Tensor:
    """Flatness, crest and persistence of partials in half-octave bands, pitch and chroma."""
    return torch.cat((_partials(seen.fine_BFS), _pitch(seen.fine_BFS), _chroma(seen.fine_BFS)), dim=1)


def _partials(power_BFS: Tensor) -> Tensor:
    log_BFS = 10 * torch.log10(power_BFS + _QUIET)
    out = []
    for start, stop in _half_octaves():
        band_BFS, linear_BFS = log_BFS[:, start:stop], power_BFS[:, start:stop] + _QUIET
        mean_BS = 10 * torch.log10(linear_BFS.mean(1))
        flatness_BS = band_BFS.mean(1) - mean_BS
        crest_BS = band_BFS.amax(1) - mean_BS
        lasting_BS = _correlation(band_BFS[..., :-_APART], band_BFS[..., _APART:])
        out += [flatness_BS.mean(1), flatness_BS.std(1), crest_BS.mean(1), lasting_BS.mean(1)]
    return torch.stack(out, dim=1)


def _correlation(one_BFS: Tensor, other_BFS: Tensor) -> Tensor:
    """Correlation over bins [B, S]; near zero where a band is empty."""
    one, other = (side - side.mean(1, keepdim=True) for side in (one_BFS, other_BFS))
    spread = (one.square().mean(1) * other.square().mean(1)).sqrt()
    return (one * other).mean(1) / (spread + 1.0)


def _pitch(power_BFS: Tensor) -> Tensor:
    """Autocorrelation's height (harmonicity) and place (pitch in octaves): mean, spread, change."""
    lags_BSL = torch.fft.irfft(power_BFS.transpose(1, 2) + 1e-10)
    own_L = _window_autocorrelation(str(power_BFS.device))
    first, last = (round(RATE / hertz) for hertz in reversed(_PITCH_HZ))
    shape_BSL = lags_BSL[..., first:last] / (lags_BSL[..., :1] * own_L[first:last])
    height_BS = shape_BSL.amax(2).clamp(0, 1)
    # Not the highest lag alone: which of two equal ones that is, rounding would decide.
    lags_L = torch.arange(first, last, device=power_BFS.device)
    octaves_L = torch.log2(RATE / lags_L / _PITCH_HZ[0])
    octave_BS = torch.softmax(_SHARPNESS * shape_BSL, dim=2) @ octaves_L
    weight_BS = height_BS.square() + 1e-3
    weight_BS = weight_BS / weight_BS.sum(1, keepdim=True)
    mean_B1 = (octave_BS * weight_BS).sum(1, keepdim=True)
    spread_B = ((octave_BS - mean_B1).square() * weight_BS).sum(1).sqrt()
    change_B = (octave_BS.diff(dim=1).abs() * weight_BS[:, 1:]).sum(1)
    return torch.stack((height_BS.mean(1), height_BS.std(1), mean_B1[:, 0], spread_B, change_B), dim=1)


def _chroma(power_BFS: Tensor) -> Tensor:
    """Of the 12 pitch classes: the mean, the mean sorted, entropy of frames and of the mean, change."""
    chroma_BCS = chroma(power_BFS)
    mean_BC = chroma_BCS.mean(2)
    change_B = (chroma_BCS[..., _APART:] - chroma_BCS[..., :-_APART]).abs().sum(1).mean(1)
    facts_B3 = torch.stack((_entropy(chroma_BCS).mean(1), _entropy(mean_BC), change_B), dim=1)
    return torch.cat((mean_BC, mean_BC.sort(1).values, facts_B3), dim=1)


def chroma(power_BFS: Tensor) -> Tensor:
    """Shares [B, 12, S] of the pitch classes in each frame's amplitude."""
    amplitude_BFS = (power_BFS + 1e-10).sqrt()
    chroma_BCS = torch.einsum("bfs,fc->bcs", amplitude_BFS, _classes(str(power_BFS.device)))
    shares_BCS: Tensor = chroma_BCS / chroma_BCS.sum(1, keepdim=True)
    return shares_BCS


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * (shares + 1e-9).log()).sum(1)


@functools.lru_cache(maxsize=1)
def _half_octaves() -> tuple[tuple[int, int], ...]:
    edges = [_LOWEST_BAND_HZ * 2 ** (step / 2) for step in range(_HALF_OCTAVES + 1)]
    bins = [round(edge * FINE_FRAME / RATE) for edge in edges]
    return tuple(itertools.pairwise(bins))


@functools.lru_cache(maxsize=4)
def _window_autocorrelation(device: str) -> Tensor:
    """Of the Hann window of a fine frame, circular as the power spectrum's is, 1 at lag 0."""
    window = torch.hann_window(FINE_FRAME, dtype=torch.float64)
    lags = torch.fft.irfft(torch.fft.rfft(window).abs().square())
    relative_L: Tensor = (lags / lags[0]).float().to(device)
    return relative_L


@functools.lru_cache(maxsize=4)
def _classes(device: str) -> Tensor:
    """Weights [F, 12] of bins in pitch classes: each bin's own, shared with the nearer neighbour."""
    weights = torch.zeros(FINE_FRAME // 2 + 1, 12)
    for index in range(1, len(weights)):
        hertz = index * RATE / FINE_FRAME
        if _CHROMA_HZ[0] <= hertz <= _CHROMA_HZ[1]:
            place = 12 * math.log2(hertz / 440.0)
            below = math.floor(place)
            weights[index, below % 12] += 1 - (place - below)
            weights[index, (below + 1) % 12] += place - below
    return weights.to(device)
