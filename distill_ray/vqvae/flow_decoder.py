"""Quantised latent vectors → magnitudes by way of a flow (`flow.py`) → audio; beside `decoder.py`.

What is linear is found in closed form from recordings: the principal components of their spectra, what
latents of neighbouring frames say of a frame's components on average, how far these are from that, and what
of a spectrum no component holds. The network learns the rest.

Shapes: B batch, C channels, T samples, S STFT frames (T / hop), F code frames (S / stride), K frequency
bins, L latent channels, D components, N = B · F frames, G = C · K gains, E = L times the frames around.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.flow import FrameNoise, LatentFlow, Transport
from distill_ray.vqvae.magnitudes import (
    Lasting,
    Magnitudes,
    Synthesis,
    lasting_of,
    log_magnitudes,
    magnitude_stft,
    spectral_basis,
    spreads_by_latents,
)
from distill_ray.vqvae.regression import ridge

AROUND = 2
"""Code frames on each side whose latents a frame's mean goes by."""
_NOISE_SEED = 3
_LEAST_DEVIATION = 1e-4


class FlowDecoder(nn.Module):
    """Latents → components of code frames → magnitudes → phases (`phases.py`)."""

    weight_ED: Tensor
    mean_D: Tensor
    deviation_D: Tensor
    correlation_D: Tensor
    latent_mean_L: Tensor
    latent_deviation_L: Tensor
    spread_LG: Tensor
    spread_G: Tensor
    lasting_2CK: Tensor

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.stride = config.stride
        self.stft = magnitude_stft(config)
        components = config.decoder_components
        self.basis = spectral_basis(config, components)
        self.flow = LatentFlow(config, components)
        gains = config.channels * self.stft.bins
        for name, values in (
            ("weight_ED", torch.zeros((2 * AROUND + 1) * config.latent_dim, components)),
            ("mean_D", torch.zeros(components)),
            ("deviation_D", torch.ones(components)),
            ("correlation_D", torch.zeros(components)),
            ("latent_mean_L", torch.zeros(config.latent_dim)),
            ("latent_deviation_L", torch.ones(config.latent_dim)),
            ("spread_LG", torch.zeros(config.latent_dim, gains)),
            ("spread_G", torch.zeros(gains)),
            ("lasting_2CK", torch.zeros(2, config.channels, self.stft.bins)),
        ):
            self.register_buffer(name, values)

    @property
    def head(self) -> nn.Linear:
        """The last matrix."""
        return self.flow.head

    @property
    def context_frames(self) -> int:
        """Code frames on each side that a frame's audio depends on."""
        return max(self.flow.context_frames, AROUND)

    @torch.no_grad()
    def start_from(self, audio_BCT: Tensor, latent_BFL: Tensor) -> None:
        """Find what is linear, the basis being fitted.

        Args:
            audio_BCT: recordings; T is a multiple of the frame hop.
            latent_BFL: their quantised latents.
        """
        log_BCSK = log_magnitudes(self.stft(audio_BCT))
        wanted_BFD = self.basis.latents(log_BCSK)
        latent_NL = latent_BFL.flatten(0, 1).float()
        self.latent_mean_L.copy_(latent_NL.mean(0))
        self.latent_deviation_L.copy_(latent_NL.std(0).clamp(min=_LEAST_DEVIATION))
        self.mean_D.copy_(wanted_BFD.mean((0, 1)))
        around_NE = self._around(latent_BFL).flatten(0, 1)
        self.weight_ED.copy_(ridge(around_NE, (wanted_BFD - self.mean_D).flatten(0, 1)))
        left_BFD = wanted_BFD - self._means(latent_BFL)
        self.deviation_D.copy_(left_BFD.square().mean((0, 1)).sqrt().clamp(min=_LEAST_DEVIATION))
        if left_BFD.shape[1] > 1:
            products_D = (left_BFD[:, 1:] * left_BFD[:, :-1]).mean((0, 1))
            self.correlation_D.copy_((products_D / self.deviation_D.square()).clamp(0.0, 0.98))
        median_BCSK = self.basis.log_magnitudes(wanted_BFD)
        weight_LG, bias_G = spreads_by_latents((log_BCSK - median_BCSK).abs(), latent_BFL)
        self.spread_LG.copy_(weight_LG)
        self.spread_G.copy_(bias_G)
        found = self._magnitudes(wanted_BFD, latent_BFL)
        self.lasting_2CK.copy_(lasting_of(log_BCSK, found, self.stft, block=self.stride).to_buffer())

    def wanted(self, audio_BCT: Tensor) -> Tensor:
        """Components [B, F, D] of recordings; the first L of them are what the encoder gives."""
        return self.basis.latents(log_magnitudes(self.stft(audio_BCT)))

    def compared(self, latent_BFL: Tensor, wanted_BFD: Tensor) -> Transport:
        """What the loss goes by, of quantised latents and of the components of the same recordings."""
        left_BFD = (wanted_BFD - self._means(latent_BFL)) / self.deviation_D
        velocity_BFD, meant_BFD = self.flow.transport(self._standard(latent_BFL), left_BFD)
        drawn = None
        if not torch.is_grad_enabled():
            frames = latent_BFL.shape[1]
            drawn = self.spectra(latent_BFL, slice(0, frames), self.noise().take(frames))
        return Transport(
            velocity_BFD=velocity_BFD,
            wanted_BFD=meant_BFD,
            weight_D=self.deviation_D / self.deviation_D.mean(),
            drawn=drawn,
        )

    def spectra(self, latent_BFL: Tensor, own: slice, noise_FD: Tensor) -> Magnitudes:
        """Magnitudes of the frames `own`, others are context, with noise of theirs."""
        told_BFW = self.flow.conditions(self._standard(latent_BFL))[:, own]
        drawn_BFD = self.flow.drawn(noise_FD.to(latent_BFL.device)[None], told_BFW)
        components_BFD = self._means(latent_BFL)[:, own] + self.deviation_D * drawn_BFD
        return self._magnitudes(components_BFD, latent_BFL[:, own])

    def noise(self) -> FrameNoise:
        """The noise of a sound; the same for each."""
        return FrameNoise(self.correlation_D.cpu(), seed=_NOISE_SEED)

    def forward(self, latent_BFL: Tensor, frames: int | None = None) -> Tensor:
        """Audio float32 [B, C, F · stride · hop], not clamped; `frames`: of the first F only."""
        stop = latent_BFL.shape[1] if frames is None else frames
        return self.stream().push(latent_BFL, slice(0, stop), last=True)

    def stream(self) -> FlowStream:
        """What gives the audio of one batch of sounds, of latents that come in order."""
        return FlowStream(self)

    def _standard(self, latent_BFL: Tensor) -> Tensor:
        return (latent_BFL.float() - self.latent_mean_L) / self.latent_deviation_L

    def _around(self, latent_BFL: Tensor) -> Tensor:
        """Latents of a frame and of those around it, joined: [B, F, E]."""
        padded_BFL = functional.pad(self._standard(latent_BFL), (0, 0, AROUND, AROUND))
        frames = latent_BFL.shape[1]
        return torch.cat([padded_BFL[:, place : place + frames] for place in range(2 * AROUND + 1)], dim=-1)

    def _means(self, latent_BFL: Tensor) -> Tensor:
        with torch.autocast(latent_BFL.device.type, enabled=False):
            return self.mean_D + self._around(latent_BFL) @ self.weight_ED

    def _magnitudes(self, components_BFD: Tensor, latent_BFL: Tensor) -> Magnitudes:
        with torch.autocast(latent_BFL.device.type, enabled=False):
            spread_BFG = latent_BFL.float() @ self.spread_LG + self.spread_G
        parts_BFCK = spread_BFG.view(*spread_BFG.shape[:2], self.channels, self.stft.bins)
        raw_BCSK = parts_BFCK.transpose(1, 2).repeat_interleave(self.stride, dim=2)
        return Magnitudes.of(self.basis.log_magnitudes(components_BFD), raw_BCSK)


class FlowStream:
    """The audio of a flow's decoder, as far as it is settled by the latents that have come."""

    def __init__(self, decoder: FlowDecoder) -> None:
        self._decoder = decoder
        self._noise = decoder.noise()
        lasting = Lasting.from_buffer(decoder.lasting_2CK)
        self._synthesis = Synthesis(decoder.stft, decoder.channels, block=decoder.stride, lasting=lasting)

    def push(self, latent_BFL: Tensor, own: slice, *, last: bool = False) -> Tensor:
        """As `AudioStream.push`."""
        noise_FD = self._noise.take(own.stop - own.start)
        return self._synthesis.push(self._decoder.spectra(latent_BFL, own, noise_FD), last=last)
