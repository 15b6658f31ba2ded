"""The spectrograms that several groups of features look at, computed once for a batch of windows.

Powers are those of a sine of the same amplitude: 1 is full scale, and everything is floored at −90 dB, below
which no group hears anything. All is float32 without TF32, so that a CPU and a GPU agree.

Legend: B windows, T samples, S frames, F frequency bins, M mel bands.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.evaluate.measures import mel_filters

RATE = 32_000
"""Samples a second of all that is judged: it reaches to 16 kHz, and lossy recordings seldom go higher."""
FLOOR = 1e-9
FRAME, HOP, MELS = 1024, 320, 64
"""Of the mel spectrogram: 32 ms windows, 100 frames a second."""
FINE_FRAME, FINE_HOP = 4096, 1024
"""Of the spectrogram that resolves partials: 128 ms windows, 31.25 frames a second."""


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """log_mel_BMS: decibels of full scale, ≥ −90; fine_BFS: power in 7.8 Hz bins."""

    log_mel_BMS: Tensor
    fine_BFS: Tensor


def spectra(audio_BT: Tensor) -> Spectra:
    """Both spectrograms of mono windows at `RATE`."""
    device = str(audio_BT.device)
    power_BFS = _power(audio_BT, FRAME, HOP)
    mel_BMS = torch.einsum("bfs,fm->bms", power_BFS, _mels(device))
    return Spectra(
        log_mel_BMS=10 * torch.log10(mel_BMS + FLOOR), fine_BFS=_power(audio_BT, FINE_FRAME, FINE_HOP)
    )


def _power(audio_BT: Tensor, frame: int, hop: int) -> Tensor:
    window = _hann(frame, str(audio_BT.device))
    spectrum_BFS = torch.stft(
        audio_BT, n_fft=frame, hop_length=hop, window=window, center=False, return_complex=True
    )
    return (spectrum_BFS.real.square() + spectrum_BFS.imag.square()) * (2 / float(window.sum())) ** 2


def octave_powers(envelope_BMS: Tensor, rate: float, edges_hz: tuple[float, ...]) -> Tensor:
    """Mean square of an envelope between each two neighbouring frequencies [B, M, O], its mean removed."""
    frames = envelope_BMS.shape[2]
    window_S = torch.hann_window(frames, device=envelope_BMS.device)
    centred_BMS = (envelope_BMS - envelope_BMS.mean(2, keepdim=True)) * window_S
    power_BMF = torch.fft.rfft(centred_BMS).abs().square() * (2 / (frames * window_S.square().sum()))
    hertz_F = torch.arange(power_BMF.shape[2], device=power_BMF.device) * (rate / frames)
    within = [((hertz_F >= low) & (hertz_F < high)).float() for low, high in itertools.pairwise(edges_hz)]
    powers_BMO: Tensor = power_BMF @ torch.stack(within, dim=1)
    return powers_BMO


@functools.lru_cache(maxsize=8)
def _hann(frame: int, device: str) -> Tensor:
    return torch.hann_window(frame, device=device)


@functools.lru_cache(maxsize=4)
def _mels(device: str) -> Tensor:
    filters_FM = mel_filters(FRAME, MELS, RATE)
    # The mean over a band's bins, not the density: white noise then has one level in all of them.
    return (filters_FM / filters_FM.sum(0).clamp(min=1e-12)).to(device)
