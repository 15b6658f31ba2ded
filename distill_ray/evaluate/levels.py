"""Levels of sounds: peak, loudness, clipping, silence, drift, stereo image.

Loudness is BS.1770-4's, gated, with the K-weighting applied to the spectra of its 400 ms blocks instead of
by filters that run on through them.

Legend: C channels, T samples, K blocks, F frequency bins.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from distill_ray.evaluate.judgement import Levels
from distill_ray.evaluate.sound import Sound

SILENCE_DBFS = -60.0
_SILENCE_BLOCK_S = 0.05
_CLIPPED = 1 - 2**-14
"""Share of full scale: what 16 bits give as their greatest value, and a little less."""
_LOUDNESS_BLOCK_S, _LOUDNESS_STEP_S = 0.4, 0.2
_ABSOLUTE_GATE_LUFS, _RELATIVE_GATE_LU = -70.0, -10.0
DRIFT_SECONDS = 6.0
"""A shorter sound says nothing of drift."""
_FLOOR = 1e-9


class LevelMeter:
    """Takes in sounds one after the other; `levels` says what all of them have."""

    def __init__(self) -> None:
        self._peak = 0.0
        self._samples = self._clipped = 0
        self._blocks = self._silent = 0
        self._longest_s = 0.0
        self._powers: list[Tensor] = []
        self._drifts: list[float] = []
        self._centroid_drifts: list[float] = []
        self._stereo = torch.zeros(3, dtype=torch.float64)

    def add(self, sound: Sound) -> None:
        """Measure one sound of at least one sample."""
        audio_CT = sound.audio_CT.detach().float().cpu()
        self._peak = max(self._peak, float(audio_CT.abs().max()))
        self._samples += audio_CT.numel()
        self._clipped += int((audio_CT.abs() >= _CLIPPED).sum())
        self._add_silence(audio_CT, sound.sample_rate)
        self._powers.append(_block_powers(audio_CT, sound.sample_rate))
        if audio_CT.shape[1] >= DRIFT_SECONDS * sound.sample_rate:
            self._add_drift(audio_CT, sound.sample_rate)
        if audio_CT.shape[0] == 2:
            left, right = audio_CT.double()
            self._stereo += torch.stack((left.square().sum(), right.square().sum(), (left * right).sum()))

    def levels(self) -> Levels:
        """The levels of all sounds."""
        return Levels(
            peak_dbfs=20 * math.log10(self._peak) if self._peak > 0 else None,
            loudness_lufs=_gated(torch.cat(self._powers)) if self._powers else None,
            loudness_to_corpus_db=None,
            clipped_share=self._clipped / max(1, self._samples),
            silence_share=self._silent / max(1, self._blocks),
            longest_silence_s=self._longest_s,
            drift_db=_mean(self._drifts),
            centroid_drift_octaves=_mean(self._centroid_drifts),
            channel_correlation=self._correlation(),
            side_share=self._side_share(),
        )

    def _add_silence(self, audio_CT: Tensor, rate: int) -> None:
        block = max(1, round(_SILENCE_BLOCK_S * rate))
        blocks = audio_CT.shape[1] // block
        if not blocks:
            return
        power_K = audio_CT[:, : blocks * block].reshape(-1, blocks, block).square().mean((0, 2))
        silent = (power_K < 10 ** (SILENCE_DBFS / 10)).tolist()
        longest = run = 0
        for quiet in silent:
            run = run + 1 if quiet else 0
            longest = max(longest, run)
        self._blocks += blocks
        self._silent += sum(silent)
        self._longest_s = max(self._longest_s, longest * block / rate)

    def _add_drift(self, audio_CT: Tensor, rate: int) -> None:
        third = audio_CT.shape[1] // 3
        first, last = audio_CT[:, :third], audio_CT[:, -third:]
        powers = [float(part.square().mean()) + _FLOOR for part in (first, last)]
        self._drifts.append(10 * math.log10(powers[1] / powers[0]))
        if min(powers) > 10 ** (SILENCE_DBFS / 10):
            self._centroid_drifts.append(math.log2(_centroid(last, rate) / _centroid(first, rate)))

    def _correlation(self) -> float | None:
        left, right, both = self._stereo.tolist()
        return both / math.sqrt(left * right) if left * right > 0 else None

    def _side_share(self) -> float | None:
        left, right, both = self._stereo.tolist()
        return (left + right - 2 * both) / (2 * (left + right)) if left + right > 0 else None


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _centroid(audio_CT: Tensor, rate: int) -> float:
    """Spectral centroid in Hz on a logarithmic axis, above 20 Hz."""
    power_F = torch.fft.rfft(audio_CT.mean(0)).abs().square().double()
    hertz_F = torch.arange(len(power_F), dtype=torch.float64) * (rate / (2 * (len(power_F) - 1)))
    power_F[hertz_F < 20] = 0
    total = float(power_F.sum())
    if total <= 0:
        return 20.0
    return 2 ** float((power_F * hertz_F.clamp(min=20).log2()).sum() / total)


def _block_powers(audio_CT: Tensor, rate: int) -> Tensor:
    """K-weighted mean squares of blocks, summed over channels [K]; a short sound is one block."""
    block, step = round(_LOUDNESS_BLOCK_S * rate), round(_LOUDNESS_STEP_S * rate)
    if audio_CT.shape[1] < block:
        block = audio_CT.shape[1]
    weights_F = _k_weighting(block, rate)
    power_K = [
        (torch.fft.rfft(part_CKT).abs().square() * weights_F).sum((0, 2))
        for part_CKT in torch.split(audio_CT.unfold(1, block, step), 64, dim=1)
    ]
    return torch.cat(power_K).double() * (2 / block**2)


@functools.lru_cache(maxsize=8)
def _k_weighting(block: int, rate: int) -> Tensor:
    """Squared gains [F] of BS.1770's two filters, by their analogue prototypes (De Man 2014)."""
    s_F = 1j * torch.arange(block // 2 + 1, dtype=torch.float64) * (rate / block)
    shelf_hz, shelf_q, gain = 1681.974450955533, 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    shelf_F = s_F / shelf_hz
    shelved_F = (gain * shelf_F**2 + gain**0.4996667741545416 / shelf_q * shelf_F + 1) / (
        shelf_F**2 + shelf_F / shelf_q + 1
    )
    high_F = s_F / 38.13547087602444
    passed_F = high_F**2 / (high_F**2 + high_F / 0.5003270373238773 + 1)
    squared_F: Tensor = (shelved_F * passed_F).abs().square().float()
    return squared_F


def _gated(power_K: Tensor) -> float | None:
    """Loudness in LUFS of blocks; None where all are below the absolute gate."""
    loudness_K = -0.691 + 10 * torch.log10(power_K + 1e-15)
    loud_K = power_K[loudness_K > _ABSOLUTE_GATE_LUFS]
    if not len(loud_K):
        return None
    gate = -0.691 + 10 * math.log10(float(loud_K.mean())) + _RELATIVE_GATE_LU
    kept_K = power_K[loudness_K > max(gate, _ABSOLUTE_GATE_LUFS)]
    return -0.691 + 10 * math.log10(float(kept_K.mean()))
