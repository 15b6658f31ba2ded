"""Quantised latent vectors → audio; the mirror of `encoder.py`.

Shapes: B batch, C channels, T samples, S STFT frames (T / hop), F code frames (S / stride), K frequency
bins, W width, L latent channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae import kernels
from distill_ray.vqvae.blocks import REACH, convnext_stack, init_linear
from distill_ray.vqvae.magnitudes import (
    Lasting,
    Magnitudes,
    Synthesis,
    lasting_of,
    log_magnitudes,
    magnitude_stft,
    raw_spread,
    spectral_basis,
    spreads_by_latents,
)
from distill_ray.vqvae.spectral import DIRECTION_FLOOR, directed, expand, limited

GAIN_SHARE = 0.1
"""Of the usual start of matrices: at first gains are little more than their bias."""


class Decoder(nn.Module):
    """ConvNeXt → `stride` frames out of one → ConvNeXt → complex spectra → inverse STFT.

    The head gives a gain and a direction in the complex plane for each bin (`spectral.directed`). Vocos'
    phase angle instead of the direction learns more slowly, compressed real and imaginary parts, which files
    of before 2026-11-26 have, reach less (ARCHITECTURE.md).
    """

    lasting_2CK: Tensor | None

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.stride = config.stride
        self.compression = config.compression
        self.stft = magnitude_stft(config)
        self.most = self.stft.loudest**config.compression
        blocks = config.decoder_blocks
        self.embed = nn.Linear(config.latent_dim, config.width)
        self.embed_norm = nn.LayerNorm(config.width, eps=1e-6) if config.decoder_norm else nn.Identity()
        self.coarse = convnext_stack(
            config.width, blocks, total=2 * blocks, mlp_ratio=config.mlp_ratio, dropout=config.dropout
        )
        self.up = nn.Linear(config.width, config.stride * config.width)
        self.fine = convnext_stack(
            config.width, blocks, total=2 * blocks, mlp_ratio=config.mlp_ratio, dropout=config.dropout
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.directed = config.decoder_head == "directed"
        self.magnitudes = config.decoder_head == "magnitudes"
        self.gains = config.channels * self.stft.bins
        self.head = nn.Linear(config.width, (3 if self.directed else 2) * self.gains)
        self.apply(init_linear)
        self.basis = spectral_basis(config, config.latent_dim) if self.magnitudes else None
        by_latents = self.magnitudes and config.decoder_spread == "latents"
        self.spread = nn.Linear(config.latent_dim, self.gains, bias=False) if by_latents else None
        # Share and correlation of `Lasting`.
        self.register_buffer(
            "lasting_2CK", torch.zeros(2, config.channels, self.stft.bins) if by_latents else None
        )
        with torch.no_grad():
            if self.directed:
                self.head.weight[: self.gains].mul_(GAIN_SHARE)
            if self.magnitudes:
                self.head.weight.zero_()
            if self.spread is not None:
                self.spread.weight.zero_()

    @torch.no_grad()
    def start_from(self, audio_BCT: Tensor) -> None:
        """Let the head's bias give the mean log spectrum of recordings.

        A decoder that knows nothing of its latents does best to give that whatever they are. Learnt, it
        makes features of which 99 % are the same in all frames: every step then moves all frames' spectra
        together, and what tells them apart is learnt slowly.

        Args:
            audio_BCT: recordings; T is a multiple of the hop.
        """
        if self.directed:
            log_CK = log_magnitudes(self.stft(audio_BCT)).mean((0, 2))
            self.head.bias[: self.gains].copy_(log_CK.flatten() - math.log(self.stft.loudest))

    @torch.no_grad()
    def start_spread(self, audio_BCT: Tensor, latent_BFL: Tensor) -> None:
        """Let a head of magnitudes give how far its medians are from recordings: each bin's bias, and, where
        spreads go by latents, what a ridge regression says of them.

        Args:
            audio_BCT: as for `start_from`; latent_BFL: their quantised latents.
        """
        log_BCSK, features_BSW = log_magnitudes(self.stft(audio_BCT)), self._features(latent_BFL)
        apart_BCSK = (log_BCSK - self._spectra(latent_BFL, features_BSW).median_BCSK).abs()
        bias_G = self.head.bias[self.gains :]
        bias_G.copy_(raw_spread(apart_BCSK.mean((0, 2))).flatten())
        if self.spread is None:
            return
        weight_LG, fitted_G = spreads_by_latents(apart_BCSK, latent_BFL)
        bias_G.copy_(fitted_G)
        self.spread.weight.copy_(weight_LG.T)
        found = self._spectra(latent_BFL, features_BSW)
        assert self.lasting_2CK is not None
        self.lasting_2CK.copy_(lasting_of(log_BCSK, found, self.stft, block=self.stride).to_buffer())

    def lasting(self) -> Lasting | None:
        """What of the noise lasts, on the CPU; None where nothing does."""
        return None if self.lasting_2CK is None else Lasting.from_buffer(self.lasting_2CK)

    @property
    def context_frames(self) -> int:
        """Code frames on each side that a frame's audio depends on."""
        fine = len(self.fine) * REACH + -(-self.stft.padding // self.stft.hop)
        return len(self.coarse) * REACH + -(-fine // self.stride)

    def forward(self, latent_BFL: Tensor, frames: int | None = None) -> Tensor:
        """Audio float32 [B, C, F · stride · hop], not clamped; `frames`: of the first F only."""
        stop = latent_BFL.shape[1] if frames is None else frames
        return self.stream().push(latent_BFL, slice(0, stop), last=True)

    def stream(self) -> AudioStream:
        """What gives the audio of one batch of sounds, of latents that come in order."""
        return AudioStream(self)

    def compared(self, latent_BFL: Tensor) -> Tensor | Magnitudes:
        """What a loss compares with a recording: audio as `forward` gives it, or magnitudes."""
        features_BSW = self._features(latent_BFL)
        return self._spectra(latent_BFL, features_BSW) if self.magnitudes else self._synthesised(features_BSW)

    def _spectra(self, latent_BFL: Tensor, features_BSW: Tensor) -> Magnitudes:
        parts_BSE = self.head(features_BSW).float()
        if self.spread is not None:
            spread_BSG = self.spread(latent_BFL).float().repeat_interleave(self.stride, dim=1)
            parts_BSE = torch.cat(
                [parts_BSE[..., : self.gains], parts_BSE[..., self.gains :] + spread_BSG], -1
            )
        parts_BSE = parts_BSE.unflatten(2, (2, self.channels, self.stft.bins))
        added_BCSK, spread_BCSK = parts_BSE.permute(2, 0, 3, 1, 4).unbind(0)
        assert self.basis is not None
        return Magnitudes.of(self.basis.log_magnitudes(latent_BFL) + added_BCSK, spread_BCSK)

    def _features(self, latent_BFL: Tensor) -> Tensor:
        coarse_BFW = self.coarse(self.embed_norm(self.embed(latent_BFL)))
        fine_BSW = self.fine(self.up(coarse_BFW).unflatten(2, (self.stride, -1)).flatten(1, 2))
        normed_BSW: Tensor = self.norm(fine_BSW)
        return normed_BSW

    def _synthesised(self, fine_BSW: Tensor) -> Tensor:
        if self.directed and kernels.usable(fine_BSW):
            from distill_ray.vqvae.kernels.spectra import padded, synthesis

            missing = padded(self.head.out_features) - self.head.out_features
            weight_EW = functional.pad(self.head.weight, (0, 0, 0, missing))
            parts_BSE = functional.linear(fine_BSW, weight_EW, functional.pad(self.head.bias, (0, missing)))
            return synthesis(
                parts_BSE,
                self.stft.window,
                self.stft.hop,
                channels=self.channels,
                loudest=self.stft.loudest,
                floor=DIRECTION_FLOOR,
            )
        parts_BSE = self.head(fine_BSW).float()
        if self.directed:
            parts = parts_BSE.unflatten(2, (3, self.channels, self.stft.bins)).permute(0, 3, 1, 2, 4)
            return self.stft.inverse(directed(parts, self.stft.loudest))
        parts = parts_BSE.unflatten(2, (self.channels, self.stft.bins, 2))
        spectra_BCSK = torch.view_as_complex(parts.transpose(1, 2).contiguous())
        return self.stft.inverse(expand(limited(spectra_BCSK, self.most), self.compression))


class AudioStream:
    """The audio of a decoder, as far as it is settled by the latents that have come."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._synthesis = (
            Synthesis(decoder.stft, decoder.channels, block=decoder.stride, lasting=decoder.lasting())
            if decoder.magnitudes
            else None
        )

    def push(self, latent_BFL: Tensor, own: slice, *, last: bool = False) -> Tensor:
        """Audio [B, C, T], not clamped, that the frames `own` of these latents settle; others are context.

        A decoder of audio settles just theirs, one of magnitudes lags behind until the `last` ones.
        """
        decoded, stride = self._decoder.compared(latent_BFL), self._decoder.stride
        if self._synthesis is None:
            assert isinstance(decoded, Tensor)
            hop = stride * self._decoder.stft.hop
            return decoded[..., own.start * hop : own.stop * hop]
        assert isinstance(decoded, Magnitudes)
        return self._synthesis.push(decoded[:, :, own.start * stride : own.stop * stride], last=last)
