"""What a decoder without phases gives: for each frame and bin, what log magnitudes are to be expected.

A code frame says little of a spectrum, so that most of its bins could be one thing or another. The decoder
gives their median and how far they are from it on average: partials of a note come out as near certain, noise
as spread, and what is drawn from both has a recording's texture, where the median alone is too smooth and too
soft (docs/measurements/2026-11-30-magnitudes.md). `decoder.py` makes it, `losses.py` learns it, `phases.py`
finds the phases.

Shapes: B batch, C channels, S STFT frames, K frequency bins, T samples, W samples of a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.basis import SpectralBasis
from distill_ray.vqvae.phases import PhaseInverter
from distill_ray.vqvae.regression import ridge
from distill_ray.vqvae.spectral import MAGNITUDE_FLOOR, Stft
from distill_ray.vqvae.stereo import left_and_right

LEAST_LOG_SPREAD, MOST_LOG_SPREAD = -4.0, 0.5
"""Natural logarithms of the spread, in nepers: 0.16 dB to 14 dB."""
RAYLEIGH_SPREAD = 0.4840
"""Mean distance from its median of the log magnitude, in nepers, of the bins of white noise."""
_SETTLED = 4
"""Code frames whose phases are found together: four times as quick as one by one, and no worse."""
_LEAST_DRAWN = 1e-6
_LEAST_APART = 1e-3
"""Nepers; a distance whose logarithm is taken is at least so much."""
_SPREAD_ROUNDS = 5
_HALF_LOG_MEDIAN = 0.5 * math.log(math.log(2.0))
_NOISE_MEAN = (-0.5 * 0.5772156649 - _HALF_LOG_MEDIAN) / RAYLEIGH_SPREAD
_NOISE_DEVIATION = math.pi / math.sqrt(24.0) / RAYLEIGH_SPREAD
"""Of the same log magnitudes, with their median at 0, in units of that distance."""
_LONGEST, _MOST_LASTING = 0.98, 0.95
"""Bounds of a correlation of neighbouring code frames, and of the lasting part's share."""


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """Log magnitudes, those of `log_magnitudes`: their median and mean distance from it, [B, C, S, K]."""

    median_BCSK: Tensor
    log_spread_BCSK: Tensor

    @classmethod
    def of(cls, median_BCSK: Tensor, raw_BCSK: Tensor) -> Magnitudes:
        """With spreads between the least and the most, of any numbers."""
        span = MOST_LOG_SPREAD - LEAST_LOG_SPREAD
        return cls(median_BCSK=median_BCSK, log_spread_BCSK=LEAST_LOG_SPREAD + span * torch.sigmoid(raw_BCSK))

    def __getitem__(self, parts: tuple[slice, ...]) -> Magnitudes:
        return Magnitudes(median_BCSK=self.median_BCSK[parts], log_spread_BCSK=self.log_spread_BCSK[parts])

    def expected(self) -> Tensor:
        """The mean magnitude [B, C, S, K] of what `drawn` draws, with the floor."""
        half_BCSK = 0.5 / RAYLEIGH_SPREAD * self.log_spread_BCSK.exp()
        log_mean_BCSK = torch.lgamma(1.0 + half_BCSK) - half_BCSK * math.log(math.log(2.0))
        return (self.median_BCSK + log_mean_BCSK).exp()

    def drawn(self, noise_CSK: Tensor, loudest: float) -> Tensor:
        """Magnitudes [B, C, S, K] with noise of mean distance 1 from a median of 0; none above `loudest`."""
        log_BCSK = self.median_BCSK + self.log_spread_BCSK.exp() * noise_CSK
        return (log_BCSK.clamp(max=math.log(loudest)).exp() - MAGNITUDE_FLOOR).clamp(min=0.0)


def raw_spread(spread: Tensor) -> Tensor:
    """The numbers of which `Magnitudes.of` makes these spreads, in nepers."""
    span = MOST_LOG_SPREAD - LEAST_LOG_SPREAD
    return torch.logit((spread.log() - LEAST_LOG_SPREAD) / span, eps=0.02)


def log_magnitudes(spectra: Tensor) -> Tensor:
    """Natural logarithms of magnitudes, of complex spectra [..., K]; silence is that of the floor."""
    return (spectra.abs() + MAGNITUDE_FLOOR).log()


def magnitude_stft(config: VQVAEConfig) -> Stft:
    """The transform whose magnitudes a codec of magnitudes is about."""
    return Stft(config.n_fft, config.hop, mid_side=config.stereo == "mid-side")


def spectral_basis(config: VQVAEConfig, components: int) -> SpectralBasis:
    """A basis of the spectra of `config`, of so many components, for its encoder or its decoder."""
    return SpectralBasis(
        channels=config.channels,
        bins=config.n_fft // 2 + 1,
        stride=config.stride,
        sample_rate=config.sample_rate,
        latents=components,
        coded=config.latent_dim,
    )


@dataclass(frozen=True, kw_only=True)
class Lasting:
    """How much of what codes do not say of a bin stays from one code frame to the next, [C, K] each.

    share: the part of its variance that does; correlation: of that part, from code frame to code frame. In a
    held note, what the medians lack is the same all along.
    """

    share_CK: Tensor
    correlation_CK: Tensor

    @classmethod
    def from_buffer(cls, lasting_2CK: Tensor) -> Lasting:
        """What `to_buffer` gave, on the CPU."""
        share_CK, correlation_CK = lasting_2CK.cpu()
        return cls(share_CK=share_CK, correlation_CK=correlation_CK)

    def to_buffer(self) -> Tensor:
        """[2, C, K]: share and correlation, as decoders keep them."""
        return torch.stack([self.share_CK, self.correlation_CK])

    @classmethod
    def of(cls, residual_BCSK: Tensor, *, block: int, overlap: int) -> Lasting:
        """By the autocorrelation of residuals in units of their spread, at lags of one and of two times as
        many whole blocks as frames overlap. Frames too few for that: nothing lasts.
        """
        blocks = -(-overlap // block)
        lag = blocks * block
        centred_BCSK = residual_BCSK.clamp(-4.0, 4.0)
        centred_BCSK = centred_BCSK - centred_BCSK.mean((0, 2), keepdim=True)
        variance_CK = centred_BCSK.square().mean((0, 2)).clamp(min=1e-12)
        if centred_BCSK.shape[2] <= 2 * lag:
            return cls(share_CK=torch.zeros_like(variance_CK), correlation_CK=torch.zeros_like(variance_CK))
        once_CK, twice_CK = (
            (centred_BCSK[:, :, by:] * centred_BCSK[:, :, :-by]).mean((0, 2)) / variance_CK
            for by in (lag, 2 * lag)
        )
        decay_CK = (twice_CK.clamp(min=1e-3) / once_CK.clamp(min=1e-3)).clamp(max=_LONGEST**blocks)
        share_CK = (once_CK / decay_CK.clamp(min=0.05)).clamp(0.0, _MOST_LASTING)
        return cls(share_CK=share_CK, correlation_CK=decay_CK ** (1.0 / blocks))


def lasting_of(log_BCSK: Tensor, found: Magnitudes, stft: Stft, *, block: int) -> Lasting:
    """What of log magnitudes lasts beside what was found of them."""
    residual_BCSK = (log_BCSK - found.median_BCSK) / found.log_spread_BCSK.exp()
    return Lasting.of(residual_BCSK, block=block, overlap=stft.n_fft // stft.hop)


def spreads_by_latents(apart_BCSK: Tensor, latent_BFL: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [L, G] and bias [G] by which latents give what `Magnitudes.of` makes spreads of.

    Args:
        apart_BCSK: distances of log magnitudes from their medians; latent_BFL: of the same frames.
    """
    batch, channels, frames, bins = apart_BCSK.shape
    count = latent_BFL.shape[1]
    parts_BCFSK = apart_BCSK.view(batch, channels, count, frames // count, bins)
    apart_NG = parts_BCFSK.mean(3).transpose(1, 2).flatten(0, 1).flatten(1)
    raw_NG = raw_spread(apart_NG.clamp(min=_LEAST_APART))
    latent_NL = latent_BFL.flatten(0, 1).float()
    mean_L, bias_G = latent_NL.mean(0), raw_NG.mean(0)
    weight_LG = ridge(latent_NL - mean_L, raw_NG - bias_G)
    bias_G = bias_G - mean_L @ weight_LG
    for _ in range(_SPREAD_ROUNDS):  # until each bin's mean distance is one spread, as Laplace's is
        log_NG = Magnitudes.of(raw_NG, latent_NL @ weight_LG + bias_G).log_spread_BCSK
        bias_G = bias_G + (apart_NG / log_NG.exp()).mean(0).log()
    return weight_LG, bias_G


class Synthesis:
    """Draws magnitudes and finds their phases, for one batch of sounds, a code frame at a time.

    What is drawn are the log magnitudes of the transform of one white noise, so that frames that overlap and
    bins that are neighbours differ as little as they do in a recording: independent draws flutter. Where
    something of it is `lasting`, that part changes from code frame to code frame by as little as it does in
    recordings. The noise is the same for every sound and every time, so that decoding is deterministic.
    """

    def __init__(
        self, stft: Stft, channels: int, *, block: int, seed: int = 0, lasting: Lasting | None = None
    ) -> None:
        self._stft = stft
        self._channels = channels
        self._block = block
        self._generator = torch.Generator().manual_seed(seed)
        self._inverter = PhaseInverter(stft, block=_SETTLED * block, look_ahead=block, seed=seed + 1)
        self._window_W = stft.window.cpu()  # once: from a GPU a copy waits for all of its work
        self._reaching_CT = torch.randn(channels, stft.n_fft - stft.hop, generator=self._generator)
        self._lasting = lasting
        self._lasting_generator = torch.Generator().manual_seed(seed + 2)
        self._field_CK: Tensor | None = None

    @torch.no_grad()
    def push(self, magnitudes: Magnitudes, *, last: bool = False) -> Tensor:
        """Audio [B, C, T] that is settled by now, of the frames of whole blocks that come next."""
        median_BCSK = magnitudes.median_BCSK
        assert median_BCSK.shape[2] % self._block == 0
        # Block by block, so that the numbers do not depend on how many come at once.
        noise_CSK = torch.cat([self._noise() for _ in range(median_BCSK.shape[2] // self._block)], dim=1)
        drawn_BCSK = magnitudes.drawn(noise_CSK.to(median_BCSK.device), self._stft.loudest)
        audio_BCT = self._inverter.push(drawn_BCSK, median_BCSK, last=last)
        return left_and_right(audio_BCT) if self._stft.mid_side else audio_BCT

    def _noise(self) -> Tensor:
        """Log magnitudes of the next frames of white noise, of median 0 and mean distance 1 from it:
        [C, block, K].
        """
        stft = self._stft
        new_CT = torch.randn(self._channels, self._block * stft.hop, generator=self._generator)
        audio_CT = torch.cat([self._reaching_CT, new_CT], dim=-1)
        self._reaching_CT = audio_CT[:, self._block * stft.hop :]
        noise_CSK = self._log_magnitudes(audio_CT.unfold(-1, stft.n_fft, stft.hop))
        if self._lasting is None:
            return noise_CSK
        share_C1K = self._lasting.share_CK[:, None]
        mixed_CSK = share_C1K.sqrt() * self._field() + (1.0 - share_C1K).sqrt() * _standard(noise_CSK)
        return mixed_CSK * _NOISE_DEVIATION + _NOISE_MEAN

    def _log_magnitudes(self, frames_CSW: Tensor) -> Tensor:
        log_CSK: Tensor = torch.fft.rfft(frames_CSW * self._window_W).abs().clamp(min=_LEAST_DRAWN).log()
        return (log_CSK - _HALF_LOG_MEDIAN) / RAYLEIGH_SPREAD

    def _field(self) -> Tensor:
        """The lasting part of the next block [C, block, K], of mean 0 and deviation 1: an autoregressive
        field of one spectrum a block, between which it goes in straight lines.
        """
        assert self._lasting is not None
        shape = (self._channels, 1, self._stft.n_fft)
        new_CK = _standard(self._log_magnitudes(torch.randn(shape, generator=self._lasting_generator)))[:, 0]
        correlation_CK = self._lasting.correlation_CK
        before_CK = new_CK if self._field_CK is None else self._field_CK
        if self._field_CK is not None:
            new_CK = correlation_CK * before_CK + (1.0 - correlation_CK.square()).sqrt() * new_CK
        self._field_CK = new_CK
        place_S1 = ((torch.arange(self._block) + 0.5) / self._block)[:, None]
        between_CSK = before_CK[:, None] * (1.0 - place_S1) + new_CK[:, None] * place_S1
        both_CSK = 2.0 * place_S1 * (1.0 - place_S1) * (1.0 - correlation_CK[:, None])
        return between_CSK / (1.0 - both_CSK).sqrt()


def _standard(noise_CSK: Tensor) -> Tensor:
    return (noise_CSK - _NOISE_MEAN) / _NOISE_DEVIATION
