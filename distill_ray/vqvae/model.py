"""The codec: encoder, quantiser and decoder put together.

Shapes: B batch, C channels, T samples, F code frames, Q RVQ levels, N = B · F vectors, L latent channels,
D components that a flow draws, the latent channels first; L without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.argument_types import checks_arguments
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import UsageError
from distill_ray.vqvae.decoder import Decoder
from distill_ray.vqvae.encoder import BasisEncoder, Encoder
from distill_ray.vqvae.flow import Transport
from distill_ray.vqvae.flow_decoder import FlowDecoder
from distill_ray.vqvae.magnitudes import Magnitudes, log_magnitudes
from distill_ray.vqvae.quantizer import ResidualVectorQuantizer
from distill_ray.vqvae.results import VQVAEOutput


class VQVAE(nn.Module):
    """Neural audio codec with a residual vector quantiser; `config` rebuilds it."""

    @checks_arguments
    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        is_fixed = config.gives_magnitudes
        self.encoder = BasisEncoder(config) if is_fixed else Encoder(config)
        self.quantizer = ResidualVectorQuantizer(config)
        self.decoder = FlowDecoder(config) if config.decoder_head == "flow" else Decoder(config)
        if is_fixed:  # latents that nothing moves need no other spaces to be looked up in
            self.quantizer.project_in.requires_grad_(False)
            self.quantizer.project_out.requires_grad_(False)

    def forward(self, audio_BCT: Tensor, depth_B: Tensor | None = None) -> VQVAEOutput:
        """Reconstruct audio for training.

        Args:
            audio_BCT: floats in [-1, 1]; T is a multiple of `config.frame_hop`.
            depth_B: int64, RVQ levels in use for each item, 1…Q; None uses all.

        Raises:
            UsageError: audio of another shape.
        """
        channels, hop = self.config.channels, self.config.frame_hop
        if audio_BCT.ndim != 3 or audio_BCT.shape[1] != channels or audio_BCT.shape[2] % hop:
            raise UsageError(
                f"audio of shape {tuple(audio_BCT.shape)} cannot be trained on: this model takes "
                f"[batch, {channels}, samples] with a multiple of {hop} samples"
            )
        return self.reconstruct(self.latents(audio_BCT), depth_B)

    def latents(self, audio_BCT: Tensor) -> Tensor:
        """What `reconstruct` takes of audio: the encoder's latents, with those that only a flow knows."""
        if isinstance(self.decoder, FlowDecoder):
            return self.decoder.wanted(audio_BCT)
        latent_BFL: Tensor = self.encoder(audio_BCT)
        return latent_BFL

    def reconstruct(self, latent_BFD: Tensor, depth_B: Tensor | None = None) -> VQVAEOutput:
        """Quantise and decode `latents` for training; `depth_B` as for `forward`."""
        quantized = self.quantizer(latent_BFD[..., : self.config.latent_dim], depth_B)
        return VQVAEOutput(
            decoded=self.compared(quantized.latent_BFL, latent_BFD),
            codes_BQT=quantized.codes_BQT,
            commitment_loss=quantized.commitment_loss,
            codebook_loss=quantized.codebook_loss,
            residuals_QND=quantized.residuals_QND,
            used_QN=quantized.used_QN,
        )

    def compared(self, latent_BFL: Tensor, latent_BFD: Tensor) -> Tensor | Magnitudes | Transport:
        """What a loss compares with recordings, of their quantised latents and of `latents`."""
        if isinstance(self.decoder, FlowDecoder):
            return self.decoder.compared(latent_BFL, latent_BFD)
        return self.decoder.compared(latent_BFL)

    def hidden_matrices(self) -> list[Tensor]:
        """The matrices between hidden features, which hold most parameters: not those that take in or
        give out spectra, nor the quantiser's.
        """
        outer = [
            self.decoder.head,
            *([self.decoder.spread] if isinstance(self.decoder, Decoder) else []),
            *([self.encoder.embed] if isinstance(self.encoder, Encoder) else []),
        ]
        parts = (*self.encoder.modules(), *self.decoder.modules())
        return [part.weight for part in parts if isinstance(part, nn.Linear) and part not in outer]

    @torch.no_grad()
    def initialise(
        self,
        audio_BCT: Tensor,
        generator: torch.Generator,
        more: Iterable[Tensor] = (),
        goes_on: Callable[[str], bool] = lambda what: True,
    ) -> None:
        """Start from a first batch: the spectral basis, the codebooks by k-means on its latents, level by
        level, and the decoder from its mean log spectrum or from what the basis leaves uncertain.

        Args:
            audio_BCT: as for `forward`; the windows of all ranks in the same order everywhere.
            generator: CPU generator in the same state everywhere.
            more: further batches of audio, for the codebooks alone.
            goes_on: told each part before it is begun, says whether there is time for more than what a codec
                cannot be without.
        """
        if isinstance(self.encoder, BasisEncoder):
            assert self.decoder.basis is not None, "encoder and decoder are of one kind"
            self.decoder.basis.fit(log_magnitudes(self.encoder.stft(audio_BCT)), generator, goes_on)
            self.encoder.basis.take(self.decoder.basis)
        latent_BFL = self.encoder(audio_BCT).float()
        latents = [latent_BFL]
        for each_BCT in more:
            if not goes_on("recordings"):
                break
            latents.append(self.encoder(each_BCT).float())
        self.quantizer.initialise(torch.cat([each.flatten(0, 1) for each in latents]), generator, goes_on)
        goes_on("decoder")
        if isinstance(self.decoder, FlowDecoder):
            self.decoder.start_from(audio_BCT, self.quantizer(latent_BFL).latent_BFL)
            return
        self.decoder.start_from(audio_BCT)
        if self.decoder.magnitudes:
            self.decoder.start_spread(audio_BCT, self.quantizer(latent_BFL).latent_BFL)

    @torch.no_grad()
    def encode(self, audio_BCT: Tensor, num_quantizers: int | None = None) -> Tensor:
        """Codes int64 [B, Q, ceil(T / frame_hop)]; zeros fill the last frame.

        Put the model into eval mode first: with dropout, training mode gives other codes each time.

        Args:
            audio_BCT: floats in [-1, 1], T ≥ 1.
            num_quantizers: levels to compute; None is all.

        Raises:
            UsageError: no samples, another number of channels, or more levels than the model has.
        """
        if audio_BCT.ndim != 3 or audio_BCT.shape[1] != self.config.channels or audio_BCT.shape[2] < 1:
            raise UsageError(
                f"audio of shape {tuple(audio_BCT.shape)} cannot be encoded: this model takes "
                f"[batch, {self.config.channels}, samples] with at least one sample"
            )
        levels = self.config.num_quantizers if num_quantizers is None else num_quantizers
        self._check_levels(levels)
        padded = functional.pad(audio_BCT, (0, -audio_BCT.shape[2] % self.config.frame_hop))
        codes_BQT: Tensor = self.quantizer(self.encoder(padded), levels=levels).codes_BQT
        return codes_BQT

    @torch.no_grad()
    def decode(self, codes_BQT: Tensor, length: int | None = None) -> Tensor:
        """Audio float32 [B, C, T] in [-1, 1] of the codes of the first levels.

        Args:
            codes_BQT: int64 [B, 1…Q, F ≥ 1].
            length: samples to return, at most F · frame_hop; None returns all.

        Raises:
            UsageError: no frames, codes or levels that the model does not have, or a length out of range.
        """
        self.check_codes(codes_BQT, length)
        frames = None if length is None else -(-length // self.config.frame_hop)
        audio_BCT: Tensor = self.decoder(self.quantizer.decode(codes_BQT), frames)
        return audio_BCT[..., :length].clamp(-1.0, 1.0)

    def check_codes(self, codes_BQT: Tensor, length: int | None = None) -> None:
        """Raise the `UsageError` of `decode` where codes do not belong to this model."""
        if codes_BQT.ndim != 3 or codes_BQT.shape[2] < 1 or codes_BQT.shape[0] < 1:
            raise UsageError(
                f"codes of shape {tuple(codes_BQT.shape)} cannot be decoded: give [batch, levels, frames] "
                "with at least one frame"
            )
        self._check_levels(codes_BQT.shape[1])
        low, high = (int(limit) for limit in codes_BQT.aminmax())
        if low < 0 or high >= self.config.codebook_size:
            raise UsageError(
                f"codes from {low} to {high} cannot be decoded: this model has codes 0 to "
                f"{self.config.codebook_size - 1}; use the model that made them"
            )
        samples = codes_BQT.shape[2] * self.config.frame_hop
        if length is not None and not 1 <= length <= samples:
            raise UsageError(f"{length} samples cannot be decoded: the codes hold 1 to {samples}")

    def _check_levels(self, levels: int) -> None:
        if not 1 <= levels <= self.config.num_quantizers:
            raise UsageError(
                f"{levels} RVQ levels were asked for: this model has 1 to {self.config.num_quantizers}"
            )
