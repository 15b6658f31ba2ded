"""Audio → latent vectors at the code frame rate; `decoder.py` is its mirror, `quantizer.py` comes next.

Shapes: B batch, C channels, T samples, S STFT frames (T / hop), F code frames (S / stride), K frequency
bins, W width, L latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae import kernels
from distill_ray.vqvae.blocks import REACH, convnext_stack, init_linear
from distill_ray.vqvae.magnitudes import log_magnitudes, magnitude_stft, spectral_basis
from distill_ray.vqvae.spectral import MAGNITUDE_FLOOR, Stft, compress
from distill_ray.vqvae.stereo import mid_and_side


class Encoder(nn.Module):
    """Compressed STFT of all channels → ConvNeXt → strided frames → ConvNeXt → latents.

    With `encoder_input` "magnitudes" phases are not seen, so that codes cannot say them; of two channels the
    magnitudes of mid and side are seen too, which hold the stereo image. All of the learned part runs at STFT
    frame rate or below, so that the work is matrix products.
    """

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.compression = config.compression
        self.stft = Stft(config.n_fft, config.hop)
        self.magnitudes = config.encoder_input == "magnitudes"
        blocks = config.encoder_blocks
        views = config.channels**2 if self.magnitudes else 2 * config.channels
        self.embed = nn.Linear(views * self.stft.bins, config.width)
        self.embed_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.fine = convnext_stack(
            config.width, blocks, total=2 * blocks, mlp_ratio=config.mlp_ratio, dropout=config.dropout
        )
        self.down = nn.Linear(config.stride * config.width, config.width)
        self.coarse = convnext_stack(
            config.width, blocks, total=2 * blocks, mlp_ratio=config.mlp_ratio, dropout=config.dropout
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.project = nn.Linear(config.width, config.latent_dim)
        self.apply(init_linear)
        # Silence would otherwise be zeros that the norm divides by nothing: a million times the gradient.
        nn.init.normal_(self.embed.bias, std=0.02)

    @property
    def context_frames(self) -> int:
        """Code frames on each side that a latent vector depends on."""
        fine = len(self.fine) * REACH + -(-self.stft.padding // self.stft.hop)
        return len(self.coarse) * REACH + -(-fine // self.stride)

    def forward(self, audio_BCT: Tensor) -> Tensor:
        """Latents [B, F, L] of audio whose length is a multiple of hop · stride."""
        fine_BSW = self.fine(self.embed_norm(self._embedded(audio_BCT)))
        # A convolution whose kernel equals its stride is a matrix product on joined frames.
        joined = fine_BSW.unflatten(1, (-1, self.stride)).flatten(2)
        latent: Tensor = self.project(self.norm(self.coarse(self.down(joined))))
        return latent

    def _embedded(self, audio_BCT: Tensor) -> Tensor:
        """The compressed spectra of all channels, embedded: [B, S, W]."""
        if self.magnitudes:
            spectra_BCSK = self.stft(_with_mid_and_side(audio_BCT))
            magnitudes_BCSK = compress(spectra_BCSK, self.compression).abs()
            magnitudes_BSW: Tensor = self.embed(magnitudes_BCSK.transpose(1, 2).flatten(2))
            return magnitudes_BSW
        if kernels.usable(audio_BCT) and not audio_BCT.requires_grad:
            from distill_ray.vqvae.kernels.spectra import features

            features_BSE = features(
                audio_BCT, self.stft.window, self.stft.hop, exponent=self.compression, floor=MAGNITUDE_FLOOR
            )
            missing = features_BSE.shape[-1] - self.embed.in_features
            weight_WE = functional.pad(self.embed.weight, (0, missing))
            return functional.linear(features_BSE, weight_WE, self.embed.bias)
        spectra_BCSK = compress(self.stft(audio_BCT), self.compression)
        embedded_BSW: Tensor = self.embed(torch.view_as_real(spectra_BCSK).transpose(1, 2).flatten(2))
        return embedded_BSW


class BasisEncoder(nn.Module):
    """The spectral basis alone (`basis.py`), before a decoder of magnitudes; it learns nothing.

    What was learnt beside it made codes that a prior predicts less well
    (docs/measurements/2026-11-30-magnitudes.md).
    """

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.stft = magnitude_stft(config)
        self.basis = spectral_basis(config, config.latent_dim)

    @property
    def context_frames(self) -> int:
        """As `Encoder.context_frames`."""
        return -(-self.stft.padding // (self.stft.hop * self.stride))

    def forward(self, audio_BCT: Tensor) -> Tensor:
        """Latents as `Encoder` gives them."""
        return self.basis.latents(log_magnitudes(self.stft(audio_BCT)))


def _with_mid_and_side(audio_BCT: Tensor) -> Tensor:
    if audio_BCT.shape[1] != 2:
        return audio_BCT
    return torch.cat([audio_BCT, mid_and_side(audio_BCT)], dim=1)
