"""Audio from STFT magnitudes: phases are found block by block, from the past and a short look-ahead.

`decoder.py` gives the magnitudes of a codec without phases, block by block also where a sound is only being
made. New frames begin with the phases of the frame of before gone on, as a phase vocoder's do: each partial
turns by its frequency, bins around it keep together, and what begins anew begins as a click. A few iterations
of Griffin & Lim (1984) with look-ahead (Zhu, Beauregard & Wyse 2007) follow. What a block becomes depends on
the frames of before and on a bounded number of later ones, so that audio made in pieces is that made at once.

Shapes: B batch, C channels, S STFT frames, K frequency bins, T samples, W samples of a frame, H samples of a
hop, R hops.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.vqvae.replay import Replayed
from distill_ray.vqvae.spectral import Stft

ITERATIONS = 2
"""More of them come nearer to magnitudes that contradict one another, and sound no better
(docs/measurements/2026-11-30-phases.md)."""
_ONSET, _SHARPNESS = 0.5, 4.0
"""Nepers in a hop from which on a bin begins anew, and how sharp that bound is."""
_AROUND = 5
"""Bins of which none was as loud before; a partial that glides does not begin anew."""
_TINY = 1e-9


class PhaseInverter:
    """One batch of sounds in the making: give it magnitudes in order, take the audio that is finished.

    Args:
        stft: the transform whose magnitudes come.
        block: frames that are settled together.
        look_ahead: later frames that have a say, at least one.
        seed: of the phases that the first frame begins with, the same in all sounds of a batch.
    """

    def __init__(self, stft: Stft, *, block: int, look_ahead: int, seed: int = 0) -> None:
        assert look_ahead >= 1, look_ahead
        self._stft = stft
        self._block = block
        self._look_ahead = look_ahead
        angles_K = 2.0 * math.pi * torch.rand(stft.bins, generator=torch.Generator().manual_seed(seed))
        self._random_K = torch.polar(torch.ones_like(angles_K), angles_K).to(stft.window.device)
        self._bins_K = torch.arange(stft.bins, device=stft.window.device)
        self._turns_SK = _turns(stft, block + look_ahead)
        self._waiting: Tensor | None = None  # magnitudes [B, C, S, K] that are not settled
        self._log_smooth: Tensor | None = None  # of the same frames, [B, 1, S, K]
        self._begun: Tensor | None = None  # directions of the first of them
        self._past: Tensor | None = None  # the sum of settled frames behind them [B, C, R - 1, H]
        self._settled_frames = 0
        self._gains: dict[tuple[int, int], Tensor] = {}
        self._unsaid = stft.padding  # samples before the first one, into which frames reach
        self._replayed = Replayed()

    @torch.no_grad()
    def push(
        self, magnitudes_BCSK: Tensor, log_smooth_BCSK: Tensor | None = None, *, last: bool = False
    ) -> Tensor:
        """Audio [B, C, T] that no later magnitudes change; after the `last` ones all that is left.

        Args:
            magnitudes_BCSK: of the next frames.
            log_smooth_BCSK: logarithms of magnitudes without noise, by which the frequencies of partials are
                found; None is those of `magnitudes_BCSK`.
            last: no more come.
        """
        if log_smooth_BCSK is None:
            log_smooth_BCSK = magnitudes_BCSK.clamp(min=_TINY).log()
        # Of all channels, so that what is in the middle stays there.
        log_smooth_B1SK = log_smooth_BCSK.mean(1, keepdim=True)
        if self._waiting is not None and self._log_smooth is not None:
            magnitudes_BCSK = torch.cat([self._waiting, magnitudes_BCSK], dim=2)
            log_smooth_B1SK = torch.cat([self._log_smooth, log_smooth_B1SK], dim=2)
        self._waiting, self._log_smooth = magnitudes_BCSK, log_smooth_B1SK
        made = [magnitudes_BCSK.new_zeros(*magnitudes_BCSK.shape[:2], 0)]
        while self._waiting.shape[2] >= (1 if last else self._block + self._look_ahead):
            made.append(self._settle())
        if last and self._past is not None:
            made.append((self._past * self._gain(0)).flatten(2)[..., : self._stft.padding])
        audio_BCT = torch.cat(made, dim=-1)
        dropped = min(self._unsaid, audio_BCT.shape[-1])
        self._unsaid -= dropped
        return audio_BCT[..., dropped:]

    def _settle(self) -> Tensor:
        """The next hops of audio, of which the next `block` frames are the last that reach into them."""
        assert self._waiting is not None
        assert self._log_smooth is not None
        frames = min(self._block + self._look_ahead, self._waiting.shape[2])
        count = min(self._block, frames)
        magnitudes_BCSK = self._waiting[:, :, :frames]
        begun_BCSK, past_BCRH = self._begun, self._past
        lead = magnitudes_BCSK.shape[:2]
        if begun_BCSK is None:
            begun_BCSK = self._random_K.expand(*lead, 1, -1)
        if past_BCRH is None:
            stft = self._stft
            past_BCRH = magnitudes_BCSK.new_zeros(*lead, stft.n_fft // stft.hop - 1, stft.hop)
        directions_BCSK, unfinished_BCRH, audio_BCT = self._replayed(
            self._settled,
            magnitudes_BCSK,
            self._log_smooth[:, :, :frames],
            begun_BCSK,
            past_BCRH,
            self._gain(frames),
        )
        self._waiting, self._log_smooth = self._waiting[:, :, count:], self._log_smooth[:, :, count:]
        # Copies: the next replay has its results in the same places.
        self._begun, self._past = directions_BCSK.clone(), unfinished_BCRH.clone()
        self._settled_frames += count
        return audio_BCT.clone()

    def _settled(
        self,
        magnitudes_BCSK: Tensor,
        log_smooth_B1SK: Tensor,
        begun_BCSK: Tensor,
        past_BCRH: Tensor,
        gain_SH: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Directions of frames that look ahead; the sum of those before, from there on; audio before it."""
        stft, count = self._stft, min(self._block, magnitudes_BCSK.shape[2])
        directions_BCSK = self._continued(begun_BCSK, log_smooth_B1SK)
        spectra_BCSK = found_BCSK = magnitudes_BCSK * directions_BCSK
        for _ in range(ITERATIONS):
            audio_BCT = (self._summed(spectra_BCSK, past_BCRH) * gain_SH).flatten(2)
            found_BCSK = torch.fft.rfft(audio_BCT.unfold(-1, stft.n_fft, stft.hop) * stft.window)
            power_BCSK = (found_BCSK * found_BCSK.conj()).real
            spectra_BCSK = found_BCSK * (magnitudes_BCSK * (power_BCSK + _TINY**2).rsqrt())
        summed_BCSH = self._summed(spectra_BCSK[:, :, :count], past_BCRH)
        audio_BCT = (summed_BCSH[:, :, :count] * gain_SH[:count]).flatten(2)
        return torch.sgn(found_BCSK[:, :, count:]), summed_BCSH[:, :, count:], audio_BCT

    def _continued(self, begun_BCSK: Tensor, log_smooth_B1SK: Tensor) -> Tensor:
        """The directions of the first frames, and those of later ones that go on from the last of them."""
        begun = begun_BCSK.shape[2]
        log_B1SK = log_smooth_B1SK[:, :, begun - 1 :]
        if log_B1SK.shape[2] == 1:
            return begun_BCSK
        bins_B1SK = _bins_above(log_B1SK)
        turn = math.pi * self._stft.hop / self._stft.n_fft  # by the mean frequency of two frames
        angles_B1SK = (turn * (bins_B1SK[:, :, 1:] + bins_B1SK[:, :, :-1])).cumsum(2)
        angles_B1SK = angles_B1SK + self._turns_SK[: angles_B1SK.shape[2]]
        from_BC1K = begun_BCSK[:, :, -1:]
        from_BC1K = torch.where(from_BC1K == 0, self._random_K, from_BC1K)  # after silence
        later_BCSK = from_BC1K * torch.complex(angles_B1SK.cos(), angles_B1SK.sin())
        # Bins beside a partial, two at most, have its phase, with the sign that they have in a window.
        peak_B1SK = (self._bins_K + bins_B1SK[:, :, 1:].round().long()).clamp(0, self._stft.bins - 1)
        peak_B1SK = peak_B1SK.gather(-1, peak_B1SK)
        sign_B1SK = (1 - 2 * ((peak_B1SK - self._bins_K) & 1)).to(angles_B1SK.dtype)
        later_BCSK = later_BCSK.gather(-1, peak_B1SK.expand(later_BCSK.shape)) * sign_B1SK
        onset_B1SK, click_B1SK = self._clicks(log_B1SK)
        later_BCSK = later_BCSK + onset_B1SK * (click_B1SK - later_BCSK)
        return torch.cat([begun_BCSK, later_BCSK], dim=2)

    def _clicks(self, log_B1SK: Tensor) -> tuple[Tensor, Tensor]:
        """How much each bin of all frames but the first begins anew, from 0 to 1; the directions of a click
        there where the frame is the loudest.

        A click p samples behind the middle of a frame has in the frames around it, by their Hann windows,
        magnitudes whose roots a, b have (a - b) / (a + b) = tan(pi p / W) tan(pi H / W).
        """
        stft = self._stft
        now_B1SK, before_B1SK = log_B1SK[:, :, 1:], log_B1SK[:, :, :-1]
        after_B1SK = torch.cat([now_B1SK[:, :, 1:], now_B1SK[:, :, -1:]], dim=2)
        around_B1SK = functional.max_pool1d(before_B1SK.flatten(0, 1), _AROUND, 1, _AROUND // 2)[:, None]
        onset_B1SK = torch.sigmoid(_SHARPNESS * (now_B1SK - around_B1SK - _ONSET))
        tangent_B1SK = torch.tanh(0.25 * (after_B1SK - before_B1SK)) / math.tan(
            math.pi * stft.hop / stft.n_fft
        )
        weight_B1SK = now_B1SK.exp() * onset_B1SK + _TINY**2
        place_B1S1 = (torch.atan(tangent_B1SK) * weight_B1SK).sum(-1, keepdim=True)
        place_B1S1 = place_B1S1 / (math.pi * weight_B1SK.sum(-1, keepdim=True))  # in windows
        angles_B1SK = -2.0 * math.pi * self._bins_K * (0.5 + place_B1S1)
        return onset_B1SK, torch.complex(angles_B1SK.cos(), angles_B1SK.sin())

    def _summed(self, spectra_BCSK: Tensor, past_BCRH: Tensor) -> Tensor:
        """The sum of windowed frames and of what is past, hop by hop [B, C, S + R - 1, H]."""
        frames_BCSW = torch.fft.irfft(spectra_BCSK, n=self._stft.n_fft)
        count, reach, hop = frames_BCSW.shape[2], past_BCRH.shape[2], self._stft.hop
        summed_BCSH = functional.pad(past_BCRH, (0, 0, 0, count))
        for place in range(reach + 1):
            part = slice(place * hop, (place + 1) * hop)
            summed_BCSH[:, :, place : place + count].addcmul_(frames_BCSW[..., part], self._stft.window[part])
        return summed_BCSH

    def _gain(self, frames: int) -> Tensor:
        """What the sum of so many frames after the settled ones is multiplied by [S + R - 1, H]."""
        stft = self._stft
        past = min(self._settled_frames, stft.n_fft // stft.hop - 1)
        if (past, frames) not in self._gains:
            envelope_T = stft.overlapped((stft.window**2).expand(past + frames, -1))
            least = 1e-3 * stft.window.square().max()
            gain_SH = 1.0 / envelope_T.clamp(min=least).view(-1, stft.hop)[past:]
            self._gains[past, frames] = gain_SH
        return self._gains[past, frames]


def _bins_above(log_B1SK: Tensor) -> Tensor:
    """How many bins above each bin a partial is, from -1 to 1.

    A Hann window's spectrum of one partial that is d bins above has, of the bins above and below,
    t = (above - below) / (above + below) with t d² - 3 d + 2 t = 0.
    """
    share_B1SK = torch.tanh(0.5 * (log_B1SK[..., 2:] - log_B1SK[..., :-2]))
    return functional.pad(4.0 * share_B1SK / (3.0 + (9.0 - 8.0 * share_B1SK**2).sqrt()), (1, 1))


def _turns(stft: Stft, frames: int) -> Tensor:
    """How far the middle of each bin turns in one frame, two … `frames` [S, K]."""
    samples_S1 = stft.hop * torch.arange(1, frames + 1)[:, None]
    whole_SK = samples_S1 * torch.arange(stft.bins) % stft.n_fft  # in integers: exact after many frames
    return (2.0 * math.pi / stft.n_fft * whole_SK).to(stft.window)
