"""Structure of some seconds of sound: does it repeat, does it develop, does it have a pulse.

From frames of timbre and chroma, five a second: how similarity falls off with distance in time, how much
comes again, how sudden the changes are (Foote 2000, "Automatic Audio Segmentation Using a Measure of Audio
Novelty"); from the onset strength's autocorrelation: tempo and its clarity (Ellis 2007).

Legend: B windows, M mel bands, S frames, P pooled frames, L lags, D features.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.evaluate.spectra import HOP, RATE, Spectra
from distill_ray.evaluate.tonality import chroma

_POOLED = 20
"""Mel frames in a pooled one: 0.2 s."""
_LAGS = (1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 30)
_NOVELTY = (2, 5)
"""Half widths of the checkerboard in pooled frames: 0.4 and 1 s."""
_SHARPNESS = 10.0
"""How much more a lag of the autocorrelation counts that is higher."""
_TEMPO_HZ = (0.75, 1.0, 1.33, 1.78, 2.37, 3.16, 4.22, 5.6, 7.5)


def structure(seen: Spectra) -> Tensor:
    """The features [B, D] of windows of some seconds."""
    timbre_BMP = functional.avg_pool1d(seen.log_mel_BMS, _POOLED)
    chroma_BCP = functional.interpolate(chroma(seen.fine_BFS), timbre_BMP.shape[2], mode="linear")
    return torch.cat(
        (
            _similarity(timbre_BMP / 10),
            _similarity(20 * chroma_BCP.sqrt()),
            _course(timbre_BMP.mean(1)),
            _pulse(seen.log_mel_BMS),
        ),
        dim=1,
    )


def _similarity(frames_BMP: Tensor) -> Tensor:
    """Distances at lags, nearest repetitions, novelty."""
    scale = frames_BMP.shape[1] ** 0.5
    apart_BPP = torch.cdist(frames_BMP.transpose(1, 2), frames_BMP.transpose(1, 2)) / scale
    lags = [apart_BPP.diagonal(lag, 1, 2).mean(1) for lag in _LAGS]
    pooled = frames_BMP.shape[2]
    near = torch.arange(pooled, device=frames_BMP.device)
    far = (near[:, None] - near).abs() >= 5  # a second away: no longer the same sound going on
    again_BP = apart_BPP.masked_fill(~far, torch.inf).amin(2)
    out = [*lags, again_BP.mean(1), again_BP.amin(1), again_BP.std(1)]
    for half in _NOVELTY:
        novelty_BP = _novelty(apart_BPP, half)
        out += [novelty_BP.mean(1), novelty_BP.amax(1), novelty_BP.std(1)]
    return torch.log(torch.stack(out, dim=1) + 0.05)


def _novelty(apart_BPP: Tensor, half: int) -> Tensor:
    """Distance across each moment less that within either side of it."""
    size = 2 * half
    sides = torch.ones(size, device=apart_BPP.device)
    sides[:half] = -1
    board = -torch.outer(sides, sides) / size**2
    blocks_BPP = functional.conv2d(apart_BPP[:, None], board[None, None])[:, 0]
    return blocks_BPP.diagonal(0, 1, 2).clamp(min=0)


def _course(level_BP: Tensor) -> Tensor:
    """Spread, slope and curvature of the level in dB."""
    place_P = torch.linspace(-1, 1, level_BP.shape[1], device=level_BP.device)
    bend_P = place_P.square() - place_P.square().mean()
    return torch.stack((level_BP.std(1), (level_BP * place_P).mean(1), (level_BP * bend_P).mean(1)), dim=1)


def _pulse(log_mel_BMS: Tensor) -> Tensor:
    """Height of the onset strength's autocorrelation by tempo, the likely tempo, onset strength and rate."""
    onset_BS = log_mel_BMS.diff(dim=2).clamp(min=0).mean(1)
    centred_BS = onset_BS - onset_BS.mean(1, keepdim=True)
    frames = centred_BS.shape[1]
    spectrum = torch.fft.rfft(centred_BS, 2 * frames).abs().square()
    lags_BL = torch.fft.irfft(spectrum)[:, :frames]
    counts_L = torch.arange(frames, 0, -1, device=onset_BS.device)
    lags_BL = lags_BL / counts_L * frames / (lags_BL[:, :1] + 1e-3 * frames)
    rate = RATE / HOP
    edges = [round(rate / hertz) for hertz in _TEMPO_HZ]
    bands = [lags_BL[:, stop:start].amax(1) for start, stop in itertools.pairwise(edges)]
    places_L = torch.arange(edges[-1], edges[0], device=onset_BS.device)
    likely_BL = torch.softmax(_SHARPNESS * lags_BL[:, edges[-1] : edges[0]], dim=1)
    spread_B = onset_BS.std(1)
    strong_B = (centred_BS > 1.5 * spread_B[:, None]).float().mean(1)
    tempo_B = likely_BL @ torch.log2(rate / places_L)
    return torch.stack((*bands, tempo_B, onset_BS.mean(1), spread_B.log1p(), strong_B), dim=1)
