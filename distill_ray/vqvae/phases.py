"""Audio from STFT magnitudes: phases are found block by block, from the past and a short look-ahead.

`decoder.py` gives the magnitudes of a codec without phases, block by block also where a sound is only being
made. This is real-time iterative spectrogram inversion with look-ahead (Zhu, Beauregard & Wyse 2007) with the
iteration of fast Griffin-Lim (Perraudin, Balazs & Søndergaard 2013). What a block becomes depends on the
frames of before and on a bounded number of later ones, so that audio made in pieces is that made at once.

Shapes: B batch, C channels, S STFT frames, K frequency bins, T samples, W samples of a frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill_ray.vqvae.replay import Replayed
from distill_ray.vqvae.spectral import Stft

ITERATIONS = 16
_MOMENTUM = 0.99
_TINY = 1e-9


class PhaseInverter:
    """One batch of sounds in the making: give it magnitudes in order, take the audio that is finished.

    Args:
        stft: the transform whose magnitudes come.
        block: frames that are settled together.
        look_ahead: later frames that have a say.
        seed: of the phases that frames begin with; all sounds of a batch begin with the same ones.
    """

    def __init__(self, stft: Stft, *, block: int, look_ahead: int, seed: int = 0) -> None:
        self._stft = stft
        self._block = block
        self._look_ahead = look_ahead
        self._generator = torch.Generator().manual_seed(seed)
        self._waiting: Tensor | None = None  # magnitudes [B, C, S, K] that are not settled
        self._begun: Tensor | None = None  # directions of the first of them
        self._past: Tensor | None = None  # the settled frames [B, C, S, W] that reach into what waits
        self._unsaid = stft.padding  # samples before the first one, into which frames reach
        self._replayed = Replayed()

    @torch.no_grad()
    def push(self, magnitudes_BCSK: Tensor, *, last: bool = False) -> Tensor:
        """Audio [B, C, T] that no later magnitudes change; after the `last` ones all that is left."""
        if self._waiting is not None:
            magnitudes_BCSK = torch.cat([self._waiting, magnitudes_BCSK], dim=2)
        self._waiting = magnitudes_BCSK
        made = [magnitudes_BCSK.new_zeros(*magnitudes_BCSK.shape[:2], 0)]
        while self._waiting.shape[2] >= (1 if last else self._block + self._look_ahead):
            made.append(self._settle())
        if last and self._past is not None:
            left_BCT = self._stft.overlapped(self._past) / self._envelope(self._past.shape[2])
            hops = self._past.shape[2] * self._stft.hop
            made.append(left_BCT[..., hops : hops + self._stft.padding])
        audio_BCT = torch.cat(made, dim=-1)
        dropped = min(self._unsaid, audio_BCT.shape[-1])
        self._unsaid -= dropped
        return audio_BCT[..., dropped:]

    def _settle(self) -> Tensor:
        """The next hops of audio, of which the next `block` frames are the last that reach into them."""
        assert self._waiting is not None
        stft = self._stft
        magnitudes_BCSK = self._waiting[:, :, : self._block + self._look_ahead]
        count = min(self._block, magnitudes_BCSK.shape[2])
        past_BCSW = self._past
        if past_BCSW is None:
            past_BCSW = magnitudes_BCSK.new_zeros(*magnitudes_BCSK.shape[:2], 0, stft.n_fft)
        begun_BCSK = self._first_directions(magnitudes_BCSK)
        directions_BCSK, joined_BCSW, audio_BCT = self._replayed(
            self._settled, magnitudes_BCSK, begun_BCSK, past_BCSW
        )
        told = past_BCSW.shape[2] * stft.hop
        self._past = joined_BCSW[:, :, -(stft.n_fft // stft.hop - 1) :]
        self._waiting = self._waiting[:, :, count:]
        self._begun = directions_BCSK[:, :, count:]
        # A copy: the next replay has its audio in the same place.
        return audio_BCT[..., told : told + count * stft.hop].clone()

    def _settled(
        self, magnitudes_BCSK: Tensor, begun_BCSK: Tensor, past_BCSW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Directions of all frames; the frames of before and those that are settled; audio of both."""
        count = min(self._block, magnitudes_BCSK.shape[2])
        directions_BCSK = self._found(magnitudes_BCSK, begun_BCSK, past_BCSW)
        frames_BCSW = self._frames(magnitudes_BCSK[:, :, :count], directions_BCSK[:, :, :count])
        joined_BCSW = torch.cat([past_BCSW, frames_BCSW], dim=2)
        audio_BCT = self._stft.overlapped(joined_BCSW) / self._envelope(joined_BCSW.shape[2])
        return directions_BCSK, joined_BCSW, audio_BCT

    def _found(self, magnitudes_BCSK: Tensor, directions_BCSK: Tensor, past_BCSW: Tensor) -> Tensor:
        """The directions after `ITERATIONS`: those of the transform of the sum of all frames."""
        stft, past = self._stft, past_BCSW.shape[2]
        envelope_T = self._envelope(past + magnitudes_BCSK.shape[2])
        before = None
        for _ in range(ITERATIONS):
            frames_BCSW = self._frames(magnitudes_BCSK, directions_BCSK)
            audio_BCT = stft.overlapped(torch.cat([past_BCSW, frames_BCSW], dim=2)) / envelope_T
            seen_BCSW = audio_BCT.unfold(-1, stft.n_fft, stft.hop)[:, :, past:]
            spectra_BCSK = torch.fft.rfft(seen_BCSW * stft.window)
            ahead = spectra_BCSK
            if before is not None:
                ahead = spectra_BCSK - _MOMENTUM / (1.0 + _MOMENTUM) * before
            before = spectra_BCSK
            directions_BCSK = ahead / (ahead.abs() + _TINY)
        return directions_BCSK

    def _first_directions(self, magnitudes_BCSK: Tensor) -> Tensor:
        begun = 0 if self._begun is None else self._begun.shape[2]
        new = magnitudes_BCSK.shape[2] - begun
        angles_SK = 2.0 * math.pi * torch.rand(new, self._stft.bins, generator=self._generator)
        new_SK = torch.polar(torch.ones_like(angles_SK), angles_SK).to(magnitudes_BCSK.device)
        new_BCSK = new_SK.expand(*magnitudes_BCSK.shape[:2], -1, -1)
        return new_BCSK if self._begun is None else torch.cat([self._begun, new_BCSK], dim=2)

    def _frames(self, magnitudes_BCSK: Tensor, directions_BCSK: Tensor) -> Tensor:
        frames_BCSW: Tensor = torch.fft.irfft(magnitudes_BCSK * directions_BCSK, n=self._stft.n_fft)
        return frames_BCSW * self._stft.window

    def _envelope(self, frames: int) -> Tensor:
        window_W = self._stft.window
        return self._stft.overlapped((window_W**2).expand(frames, -1)).clamp(
            min=1e-3 * window_W.square().max()
        )
