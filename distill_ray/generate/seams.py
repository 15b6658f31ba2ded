"""How far sound jumps where it was joined, beside how far real sound moves at any moment.

The distance over a moment is that of the levels of 24 bands before and after it, in windows of 10, 40 and
160 ms: the root mean square in dB, averaged over the windows. Of a seam it is the greatest within half a code
frame, since a decoder spreads it; at random moments of real sound it is taken in the same way, so that a
ratio of 1 is what real sound does anyhow.

Legend: C channels, T samples, N moments, W samples of a window, F frequency bins, M bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOWS_S = (0.01, 0.04, 0.16)
BANDS = 24
_FLOOR = 1e-9
_MOMENTS = 256
_AT_ONCE = 64  # moments, so that their windows stay some MB
_INAUDIBLE_DB = -70.0


@dataclass(frozen=True, kw_only=True)
class SeamFigures:
    """Means in dB over the seams, and over random moments of what they are compared with."""

    distance_db: float
    real_distance_db: float
    compared_with: str
    count: int

    @property
    def ratio(self) -> float:
        """1: as real sound changes from moment to moment; above: further."""
        return self.distance_db / self.real_distance_db


def measure_seams(
    audio_CT: Tensor,
    seams: Sequence[int],
    real_CT: Sequence[Tensor],
    *,
    sample_rate: int,
    frame_hop: int,
    compared_with: str = "the recording",
) -> SeamFigures | None:
    """The figures of the samples `seams` of `audio_CT`, beside those of each sound of `real_CT`.

    None where there are no seams, or the sounds are too short or too quiet to say.
    """
    found_N = moment_distances(audio_CT, seams, sample_rate=sample_rate, frame_hop=frame_hop)
    margin = round(WINDOWS_S[-1] * sample_rate) + frame_hop
    real = [
        moment_distances(
            sound_CT,
            torch.linspace(margin, sound_CT.shape[1] - margin, _MOMENTS).long().tolist(),
            sample_rate=sample_rate,
            frame_hop=frame_hop,
        )
        for sound_CT in real_CT
        if sound_CT.shape[1] > 2 * margin
    ]
    real_N = torch.cat(real) if real else torch.empty(0)
    if not len(found_N) or not len(real_N) or not float(real_N.mean()):
        return None
    return SeamFigures(
        distance_db=float(found_N.mean()),
        real_distance_db=float(real_N.mean()),
        compared_with=compared_with,
        count=len(found_N),
    )


def moment_distances(audio_CT: Tensor, moments: Sequence[int], *, sample_rate: int, frame_hop: int) -> Tensor:
    """distance_N in dB over those moments that are far enough from the ends, and not silent on both sides."""
    mono_T = audio_CT.float().mean(dim=0)
    longest = round(WINDOWS_S[-1] * sample_rate)
    # Near an end the windows are as long as the sound allows, on both sides.
    kept = [moment for moment in moments if min(moment, len(mono_T) - moment) > frame_hop // 2 + longest // 8]
    offsets_3 = torch.tensor([-(frame_hop // 2), 0, frame_hop // 2])
    moments_3N = offsets_3[:, None] + torch.tensor(kept, dtype=torch.long)
    distance_N = _distances(mono_T, moments_3N.flatten(), sample_rate).view(3, -1).amax(dim=0)
    return distance_N[~distance_N.isnan()]


def _distances(mono_T: Tensor, moment_N: Tensor, sample_rate: int) -> Tensor:
    """distance_N; NaN where both sides are silent."""
    room_N = torch.minimum(moment_N, len(mono_T) - moment_N)
    sum_N, power_N = torch.zeros(len(moment_N)), torch.zeros(len(moment_N))
    for seconds in WINDOWS_S:
        width_N = room_N.clamp(max=round(seconds * sample_rate))
        for width in sorted(set(width_N.tolist())):
            for part_N in (width_N == width).nonzero()[:, 0].split(_AT_ONCE):
                sides_N2W = mono_T.unfold(0, 2 * width, 1)[moment_N[part_N] - width].view(-1, 2, width)
                sum_N[part_N] += _band_distance(sides_N2W, sample_rate)
                power_N[part_N] = sides_N2W.square().mean(dim=(1, 2))  # at last, over the longest window
    silent_N = 10 * torch.log10(power_N + 1e-12) < _INAUDIBLE_DB
    return torch.where(silent_N, torch.nan, sum_N / len(WINDOWS_S))


def _band_distance(sides_N2W: Tensor, sample_rate: int) -> Tensor:
    width = sides_N2W.shape[2]
    power_N2F = torch.fft.rfft(sides_N2W * torch.hann_window(width)).abs().square() * (4 / width**2)
    hertz_F = torch.arange(power_N2F.shape[2]) * (sample_rate / width)
    # Bands of equal width on the mel scale; a short window leaves the lowest ones empty.
    mel_F = torch.log1p(hertz_F / 700)
    band_F = (mel_F / mel_F[-1] * BANDS).long().clamp(max=BANDS - 1)
    power_N2M = torch.zeros(*power_N2F.shape[:2], BANDS).index_add_(2, band_F, power_N2F)
    used_M = torch.zeros(BANDS).index_add_(0, band_F, torch.ones(len(band_F))) > 0
    level_N2M = 10 * torch.log10(power_N2M[:, :, used_M] + _FLOOR)
    return (level_N2M[:, 0] - level_N2M[:, 1]).square().mean(dim=1).sqrt()
