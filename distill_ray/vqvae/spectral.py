"""Short-time Fourier transform with an exact inverse, and power-law compression of its spectra.

Used by the encoder and decoder (`encoder.py`, `decoder.py`) and by the losses (`losses.py`). Framing and
overlap-add are plain strided views and sums: static shapes, no host synchronisation, so that a training
step can be captured as a CUDA graph (`torch.istft` reads its window back and cannot be).

Shapes: T samples, F frames, W window samples (n_fft), R = n_fft / hop, K = n_fft / 2 + 1 frequency bins;
`...` stands for any leading dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.vqvae.stereo import mid_and_side

MAGNITUDE_FLOOR = 1e-4
"""Magnitude (in units of white noise of that RMS) below which compression turns linear: about -80 dB."""
EXPANSION_FLOOR = 1e-6
"""Keeps the derivative of `expand` finite at zero for exponents above 1/2."""

DIRECTION_FLOOR = 1e-4
"""Squared length of a direction below which it loses its say, and its gradient stops growing."""


class Stft(nn.Module):
    """Hann-window STFT of T = F · hop samples into exactly F frames, and back.

    Frame f is centred on the hop that it stands for: (n_fft - hop) / 2 zeros are added on both sides. The
    window has unit energy, so white noise of RMS s gives bins of RMS s whatever the window length.

    Args:
        n_fft: window length in samples, a multiple of `hop` and at least two hops.
        hop: samples between frames.
        mid_side: spectra are those of mid and side, where audio [..., C, T] has two channels.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int, *, mid_side: bool = False) -> None:
        super().__init__()
        assert n_fft % hop == 0, (n_fft, hop)
        assert n_fft >= 2 * hop, (n_fft, hop)
        assert (n_fft - hop) % 2 == 0, (n_fft, hop)
        self.n_fft = n_fft
        self.hop = hop
        self.mid_side = mid_side
        self.bins = n_fft // 2 + 1
        self.padding = (n_fft - hop) // 2
        # The norm of a Hann window. Times this, spectra are as `torch.stft` gives them.
        self.gain = math.sqrt(0.375 * n_fft)
        self.register_buffer("window", torch.hann_window(n_fft) / self.gain, persistent=False)
        # The sum of the window: no bin of audio in [-1, 1] has a greater magnitude.
        self.loudest = 0.5 * n_fft / self.gain

    def forward(self, audio: Tensor) -> Tensor:
        """Spectra of `audio` [..., T] with T a multiple of `hop`: complex64 [..., F, K].

        Computed in float32 whatever the input or the autocast state.
        """
        assert audio.shape[-1] % self.hop == 0, (audio.shape, self.hop)
        with torch.autocast(audio.device.type, enabled=False):
            audio = mid_and_side(audio) if self.mid_side else audio
            padded = functional.pad(audio.float(), (self.padding, self.padding))
            spectra: Tensor = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop) * self.window)
            return spectra

    def inverse(self, spectra: Tensor) -> Tensor:
        """Audio float32 [..., F · hop] from spectra complex64 [..., F, K].

        The least-squares inverse (Griffin & Lim 1984, eq. 6): windowed overlap-add over the sum of squared
        windows; exact where `spectra` are the transform of a signal.
        """
        with torch.autocast(spectra.device.type, enabled=False):
            frames = torch.fft.irfft(spectra, n=self.n_fft) * self.window
            envelope = (self.window**2).expand(spectra.shape[-2], self.n_fft)
            return self._overlap_add(frames) / self._overlap_add(envelope)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Sum of frames [..., F, W] placed `hop` apart, without the padding: [..., F · hop]."""
        return self.overlapped(frames)[..., self.padding : self.padding + frames.shape[-2] * self.hop]

    def overlapped(self, frames: Tensor) -> Tensor:
        """Sum of frames [..., F, W] placed `hop` apart: [..., (F + R - 1) · hop]."""
        count, hops = frames.shape[-2], self.n_fft // self.hop
        # Hop r of frame f belongs at position f + r. Rows of length F + R read with a stride of F + R - 1
        # shift row r by r places: one padded copy and one sum instead of a scatter.
        lead, places = frames.shape[:-2], count + hops - 1
        rows = frames.reshape(*lead, count, hops, self.hop).transpose(-3, -2)
        skewed = functional.pad(rows, (0, 0, 0, hops)).flatten(-3, -2)[..., : hops * places, :]
        summed: Tensor = skewed.reshape(*lead, hops, places, self.hop).sum(-3).flatten(-2)
        return summed


def compress(spectra: Tensor, exponent: float) -> Tensor:
    """Complex `spectra` with magnitudes m replaced by about m ** exponent and phases kept.

    Below `MAGNITUDE_FLOOR` the curve is linear, which keeps values and gradients finite at zero.
    """
    power = spectra.real.square() + spectra.imag.square()
    compressed: Tensor = spectra * (power + MAGNITUDE_FLOOR**2) ** ((exponent - 1) / 2)
    return compressed


def limited(compressed: Tensor, most: float) -> Tensor:
    """Complex numbers with magnitudes m above `most` replaced by most · (1 + ln(m / most)).

    For what is to be expanded: the power of 1 / 0.3 makes of a small step of the weights a loud burst, whose
    gradient no later step outweighs. Above what audio in [-1, 1] can have, magnitudes therefore grow as their
    logarithm, so that they never come to be out of a gradient's reach.
    """
    power = compressed.real.square() + compressed.imag.square()
    ratio = (power / most**2).clamp(min=1.0)
    bounded: Tensor = compressed * ((1 + 0.5 * ratio.log()) / ratio.sqrt())
    return bounded


def expand(compressed: Tensor, exponent: float) -> Tensor:
    """The inverse of `compress` above the magnitude floor: magnitudes m become m ** (1 / exponent)."""
    power = compressed.real.square() + compressed.imag.square()
    spectra: Tensor = compressed * (power + EXPANSION_FLOOR**2) ** ((1 / exponent - 1) / 2)
    return spectra


def directed(parts: Tensor, loudest: float) -> Tensor:
    """Complex spectra [..., K] of `parts` [..., 3, K], a gain and the two components of a direction a bin.

    The magnitude is `loudest` times e to the gain, so that its logarithm, which is what mel distances
    compare, follows the gain one to one however quiet a bin is. Above `loudest`, where no audio is, it grows
    as the gain itself: a burst is never out of a gradient's reach. The first and the last bin are zero.
    """
    gain, real, imag = parts.unbind(-2)
    share = torch.where(gain < 0, gain.clamp(max=0.0).exp(), 1.0 + gain)
    size = loudest * share * torch.rsqrt(real.square() + imag.square() + DIRECTION_FLOOR)
    size = functional.pad(size[..., 1:-1], (1, 1))
    return torch.complex(size * real, size * imag)
