"""What a control measures in audio: loudness, brightness, density of onsets and pitch of every code frame.

Each value is of the two seconds around its frame, as far as the recording reaches: what a listener would say
of a passage, not of a single sample. `controls.py` tells how much of it is usual in a corpus.

    loudness    mean power, in dB of full scale
    brightness  mean of log2 frequency, weighted by amplitude, in octaves above 1 Hz; of audible passages
    density     onsets a second: peaks of the rise of band levels (spectral flux, as in Dixon 2006)
    pitch       log2 of the fundamental by autocorrelation, in octaves above 1 Hz; where it is clear

Legend: B sounds, T samples, N analysis frames, M bands, A measures (in the order above), F code frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PASSAGE_SECONDS = 2.0
AUDIBLE_DB = -60.0
"""Of full scale: a quieter passage has neither brightness nor pitch."""
_FRAME_SECONDS = 2048 / 44_100
_LOWEST_HZ, _BANDS = 50.0, 24
_RANGE_DB = 50.0
"""Rises further below a sound's loudest frame are no onsets."""
_SILENT_DB = -20.0
"""Of a band's power, some 75 dB below that of a sine at full scale: nothing rises from below."""
_RISE_DB = 3.0
"""Mean rise of the bands above the usual one nearby that makes an onset."""
_NEARBY_SECONDS, _APART_SECONDS = 1.0, 0.12
_HIGHEST_PITCH_HZ, _LOWEST_PITCH_HZ = 1_000.0, 70.0
_CLARITY = 0.8
"""Height of the autocorrelation's peak from which on a frame has a pitch (1: a perfect period)."""
_CLEAR_SHARE = 0.3
"""Share of a passage's frames that must have a pitch."""
_CHUNK = 2048


@dataclass(frozen=True)
class _Frames:
    """Analysis frames of sounds [B, N]: sums and flags that passages are made of."""

    is_real: Tensor
    power: Tensor
    octaves: Tensor
    amplitude: Tensor
    is_onset: Tensor
    pitch: Tensor
    is_pitched: Tensor


def measure(audio_BT: Tensor, samples_B: Tensor, *, sample_rate: int, frame_hop: int) -> Tensor:
    """values_BAF float32 of mono sounds, of which the first `samples_B` samples (int64) count.

    NaN where a sound has none: a silent passage has no brightness, an unclear one no pitch, and nothing has a
    value beyond its end.
    """
    size = 1 << round(_FRAME_SECONDS * sample_rate - 1).bit_length()
    hop = size // 2
    frames = _analysed(audio_BT.float(), samples_B, size, hop, sample_rate)
    count = -(-audio_BT.shape[1] // frame_hop)
    place_F = (torch.arange(count, device=audio_BT.device) * 2 + 1) * frame_hop / (2 * hop)
    reach = PASSAGE_SECONDS * sample_rate / hop / 2
    total = frames.is_real.shape[1]
    begin_F = (place_F - reach).floor().long().clamp(0, total - 1)
    end_F = (place_F + reach).ceil().long().clamp(1, total)

    def summed(values_BN: Tensor) -> Tensor:
        sums_BN = functional.pad((values_BN * frames.is_real).double().cumsum(1), (1, 0))
        return sums_BN[:, end_F] - sums_BN[:, begin_F]

    number_BF = summed(torch.ones_like(frames.power)).clamp(min=1)
    loudness_BF = 10 * torch.log10(summed(frames.power) / number_BF + 1e-12)
    is_audible_BF = loudness_BF > AUDIBLE_DB
    brightness_BF = summed(frames.octaves) / summed(frames.amplitude)
    density_BF = summed(frames.is_onset) / number_BF * (sample_rate / hop)
    pitched_BF = summed(frames.is_pitched)
    is_clear_BF = is_audible_BF & (pitched_BF >= _CLEAR_SHARE * number_BF)
    pitch_BF = summed(frames.pitch * frames.is_pitched) / pitched_BF
    values_BAF = torch.stack(
        (
            loudness_BF,
            brightness_BF.where(is_audible_BF, torch.nan),
            density_BF,
            pitch_BF.where(is_clear_BF, torch.nan),
        ),
        dim=1,
    )
    inside_BF = torch.arange(count, device=audio_BT.device) * frame_hop < samples_B[:, None]
    return values_BAF.where(inside_BF[:, None], torch.nan).float()


def _analysed(audio_BT: Tensor, samples_B: Tensor, size: int, hop: int, sample_rate: int) -> _Frames:
    """Frame n is centred on sample n · hop."""
    device = audio_BT.device
    padded_BT = functional.pad(audio_BT, (size // 2, size))
    frames_BNT = padded_BT.unfold(1, size, hop)[:, : audio_BT.shape[1] // hop + 1]
    window_T = torch.hann_window(size, device=device)
    hertz_F = torch.arange(size // 2 + 1, device=device) * (sample_rate / size)
    octave_F = hertz_F.clamp(min=_LOWEST_HZ).log2()
    counted_F = (hertz_F >= _LOWEST_HZ).float()
    bands_FM = _bands(hertz_F)
    parts: list[tuple[Tensor, ...]] = []
    for begin in range(0, frames_BNT.shape[1], _CHUNK):
        spectrum_BNF = torch.fft.rfft(frames_BNT[:, begin : begin + _CHUNK] * window_T)
        power_BNF = spectrum_BNF.real.square() + spectrum_BNF.imag.square()
        amplitude_BNF = power_BNF.sqrt() * counted_F
        pitch_BN, clarity_BN = _pitch(power_BNF, window_T, sample_rate)
        power_BN = 2 * power_BNF.sum(2) / (size * window_T.square().sum())
        parts.append(
            (
                power_BN,
                amplitude_BNF @ octave_F,
                amplitude_BNF.sum(2),
                10 * torch.log10(power_BNF @ bands_FM + 1e-12),
                pitch_BN,
                clarity_BN,
            )
        )
    power, octaves, amplitude, levels_BNM, pitch, clarity = (
        torch.cat([part[place] for part in parts], dim=1) for place in range(6)
    )
    real_BN = torch.arange(power.shape[1], device=device) * hop < samples_B[:, None]
    return _Frames(
        is_real=real_BN,
        power=power,
        octaves=octaves,
        amplitude=amplitude.clamp(min=1e-12),
        is_onset=_onsets(levels_BNM, real_BN, sample_rate / hop),
        pitch=pitch,
        is_pitched=((clarity >= _CLARITY) & (power > 10 ** (AUDIBLE_DB / 10))).float(),
    )


def _bands(hertz_F: Tensor) -> Tensor:
    """Bins of each of the bands, equally wide in octaves, [F, M]."""
    octaves = math.log2(float(hertz_F[-1]) / _LOWEST_HZ)
    place_F = (hertz_F.clamp(min=_LOWEST_HZ) / _LOWEST_HZ).log2() / octaves
    band_F = (place_F * _BANDS).long().clamp(max=_BANDS - 1)
    return functional.one_hot(band_F, _BANDS).float() * (hertz_F >= _LOWEST_HZ)[:, None]


def _onsets(levels_BNM: Tensor, real_BN: Tensor, rate: float) -> Tensor:
    """1 in frames [B, N] where the bands rise most, further than usual nearby."""
    floor_B11 = levels_BNM.amax((1, 2), keepdim=True).clamp(min=_SILENT_DB + _RANGE_DB) - _RANGE_DB
    levels_BNM = torch.maximum(levels_BNM, floor_B11)
    # Silence comes before a sound: what begins at once begins with an onset.
    before_B1M = floor_B11.expand(-1, 1, levels_BNM.shape[2])
    rise_BN = torch.diff(levels_BNM, dim=1, prepend=before_B1M).clamp(min=0).mean(2) * real_BN
    near, apart = (max(1, round(seconds * rate / 2)) for seconds in (_NEARBY_SECONDS, _APART_SECONDS))
    usual_BN = functional.avg_pool1d(
        rise_BN[:, None], 2 * near + 1, stride=1, padding=near, count_include_pad=False
    )[:, 0]
    highest_BN = functional.max_pool1d(rise_BN[:, None], 2 * apart + 1, stride=1, padding=apart)[:, 0]
    return ((rise_BN == highest_BN) & (rise_BN > usual_BN + _RISE_DB)).float()


def _pitch(power_BNF: Tensor, window_T: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """log2 of the fundamental in Hz, and how clear it is (0 to 1), of each frame [B, N]."""
    size = len(window_T)
    least = max(2, int(sample_rate / _HIGHEST_PITCH_HZ))
    most = min(size // 3, int(sample_rate / _LOWEST_PITCH_HZ) + 1)
    taper_L = torch.fft.irfft(torch.fft.rfft(window_T).abs().square())[: most + 1]
    similar_BNL = torch.fft.irfft(power_BNF)[..., : most + 1]
    similar_BNL = similar_BNL / similar_BNL[..., :1].clamp(min=1e-12) * (taper_L[0] / taper_L)
    inner_BNL = similar_BNL[..., least:most]
    is_peak_BNL = (inner_BNL >= similar_BNL[..., least - 1 : most - 1]) & (
        inner_BNL >= similar_BNL[..., least + 1 : most + 1]
    )
    peaks_BNL = inner_BNL.where(is_peak_BNL, 0.0)
    clarity_BN1 = peaks_BNL.amax(2, keepdim=True)
    # Multiples of the period are as high: the first that comes near the highest.
    lag_BN = least + (peaks_BNL >= 0.9 * clarity_BN1).float().argmax(2)
    return (sample_rate / lag_BN).log2(), clarity_BN1[..., 0].clamp(max=1.0)
