"""Quantised latent vectors → audio; the mirror of `encoder.py`.

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
from distill_ray.vqvae.spectral import EXPANSION_FLOOR, Stft, compress, expand, limited

HEAD_SHARE = 0.1
"""Of the usual start of matrices: at first the head gives little more than its bias."""


class Decoder(nn.Module):
    """ConvNeXt → `stride` frames out of one → ConvNeXt → compressed complex spectra → inverse STFT.

    The head gives real and imaginary parts as the encoder takes them in, with compressed magnitudes. A
    logarithmic magnitude with a phase angle (Vocos), and uncompressed parts, both learned more slowly
    (ARCHITECTURE.md).
    """

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.stride = config.stride
        self.compression = config.compression
        self.stft = Stft(config.n_fft, config.hop)
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
        self.polar = config.decoder_head == "polar"
        self.head = nn.Linear(config.width, config.channels * self.stft.bins * (3 if self.polar else 2))
        self.apply(init_linear)
        with torch.no_grad():
            self.head.weight[: config.channels * self.stft.bins if self.polar else None].mul_(HEAD_SHARE)

    @torch.no_grad()
    def start_from(self, audio_BCT: Tensor, generator: torch.Generator) -> None:
        """Let the head's bias give the mean spectrum of recordings, with random phases.

        A decoder that knows nothing of its latents does best to give that whatever they are. Learnt, it
        makes features of which 99 % are the same in all frames: every step then moves all frames' spectra
        together, and what tells them apart is learnt slowly, or the run blows up.

        Args:
            audio_BCT: recordings; T is a multiple of the hop.
            generator: CPU generator in the same state on every rank.
        """
        if self.polar:
            log_CK = (self.stft(audio_BCT).abs() + 1e-4).log().mean((0, 2))
            share = (log_CK.exp() / self.stft.loudest).clamp(max=0.9)
            self.head.bias[: log_CK.numel()].copy_(torch.logit(share).flatten())
            return
        mean_CK = compress(self.stft(audio_BCT), self.compression).abs().mean((0, 2))
        angle_CK = 2 * torch.pi * torch.rand(mean_CK.shape, generator=generator).to(mean_CK.device)
        self.head.bias.copy_(torch.view_as_real(torch.polar(mean_CK, angle_CK)).flatten())

    @property
    def context_frames(self) -> int:
        """Code frames on each side that a frame's audio depends on."""
        fine = len(self.fine) * REACH + -(-self.stft.padding // self.stft.hop)
        return len(self.coarse) * REACH + -(-fine // self.stride)

    def forward(self, latent_BFL: Tensor) -> Tensor:
        """Audio float32 [B, C, F · stride · hop], not clamped."""
        coarse_BFW = self.coarse(self.embed_norm(self.embed(latent_BFL)))
        fine_BSW = self.fine(self.up(coarse_BFW).unflatten(2, (self.stride, -1)).flatten(1, 2))
        return self._synthesised(self.norm(fine_BSW))

    def _synthesised(self, fine_BSW: Tensor) -> Tensor:
        if self.polar:
            gain, real, imag = (
                self.head(fine_BSW).float().unflatten(2, (3, self.channels, self.stft.bins)).transpose(1, 3).unbind(2)
            )
            size = self.stft.loudest * torch.sigmoid(gain) * torch.rsqrt(real.square() + imag.square() + 1e-4)
            return self.stft.inverse(torch.complex(size * real, size * imag).contiguous())
        if kernels.usable(fine_BSW):
            from distill_ray.vqvae.kernels.spectra import padded_features, synthesis

            missing = padded_features(self.channels, self.stft.bins) - self.head.out_features
            weight_EW = functional.pad(self.head.weight, (0, 0, 0, missing))
            parts_BSE = functional.linear(fine_BSW, weight_EW, functional.pad(self.head.bias, (0, missing)))
            return synthesis(
                parts_BSE,
                self.stft.window,
                self.stft.hop,
                channels=self.channels,
                exponent=self.compression,
                floor=EXPANSION_FLOOR,
                most=self.most,
            )
        parts = self.head(fine_BSW).float().unflatten(2, (self.channels, self.stft.bins, 2))
        spectra_BCSK = torch.view_as_complex(parts.transpose(1, 2).contiguous())
        return self.stft.inverse(expand(limited(spectra_BCSK, self.most), self.compression))
