"""Factorised residual vector quantiser (Kumar et al. 2023, "High-Fidelity Audio Compression with Improved
RVQGAN"), the maths only: what is summed over ranks, and when, is the training loop's business.

Each level projects what the levels before it left over to a few dimensions, takes the nearest codebook row,
and projects that row back. Nearest by Euclidean distance: rows are means of their vectors (EMA), and with
the paper's cosine search, which puts vectors of all lengths together, that is no descent on anything
(ARCHITECTURE.md, "Codec"). Everything runs in float32, also under autocast. `kmeans.py` starts the codebooks,
`results.py` holds the output.

Shapes: B batch, F code frames, N = B · F vectors, Q levels, K codebook size, D code dimension, L latent
channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae import kernels
from distill_ray.vqvae.kmeans import distinct_sample, kmeans, nearest, sums_by_code
from distill_ray.vqvae.results import Quantization, QuantizerOutput

MOST_CHANNELS = 256
"""Latent channels that the kernel of `kernels/rvq.py` holds in registers."""
MOST_DIMENSIONS = 16
"""Dimensions of a code that the kernels are measured with."""
SMALLEST_EMA_COUNT = 1e-3
"""EMA rows with less weight than this keep their place: their mean is no longer known."""


class ResidualVectorQuantizer(nn.Module):
    """Residual quantiser with learned in- and out-projections for each level.

    Both losses are sums over the vectors in use divided by the number of *all* vectors, levels and
    dimensions. The divisor is the same on every rank with an equal shard, so the mean over ranks of losses
    and gradients is that of the joined batch even where `depth_B` differs between ranks.

    With `codebook_learning="ema"` (van den Oord et al. 2017, appendix A.1) the codebooks have no gradient;
    the training loop calls `ema_update` with all-reduced `counts` and `ema_statistics` after each step. With
    "kmeans" they stay as `initialise` leaves them, which fits an encoder that does not learn either.
    """

    ema_counts_QK: Tensor
    ema_sums_QKD: Tensor

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.levels = config.num_quantizers
        self.size = config.codebook_size
        self.dim = config.codebook_dim
        self.learning = config.codebook_learning
        self.lookup = config.codebook_lookup
        self.decay = config.codebook_decay
        self.reseed_threshold = config.reseed_threshold
        self.project_in = nn.ModuleList(nn.Linear(config.latent_dim, self.dim) for _ in range(self.levels))
        self.project_out = nn.ModuleList(nn.Linear(self.dim, config.latent_dim) for _ in range(self.levels))
        self._start_projections(config.latent_dim)
        codebooks_QKD = torch.randn(self.levels, self.size, self.dim)
        self.codebooks_QKD = nn.Parameter(codebooks_QKD, requires_grad=self.learning == "gradient")
        if self.learning == "ema":
            self.register_buffer("ema_counts_QK", torch.ones(self.levels, self.size))
            self.register_buffer("ema_sums_QKD", codebooks_QKD.clone())

    def _start_projections(self, latent_dim: int) -> None:
        """Levels start as orthogonal projections on different directions of the latent space.

        Projecting out with the transpose of projecting in makes each residual shorter from the first step
        on; with independent matrices it would grow from level to level.
        """
        basis_LL = torch.empty(max(latent_dim, self.dim), latent_dim)
        nn.init.orthogonal_(basis_LL)
        for level, (inward, outward) in enumerate(zip(self.project_in, self.project_out, strict=True)):
            assert isinstance(inward, nn.Linear)
            assert isinstance(outward, nn.Linear)
            rows = (level * self.dim + torch.arange(self.dim)) % len(basis_LL)
            with torch.no_grad():
                inward.weight.copy_(basis_LL[rows])
                outward.weight.copy_(basis_LL[rows].T)
            nn.init.zeros_(inward.bias)
            nn.init.zeros_(outward.bias)

    def forward(
        self, latent_BFL: Tensor, depth_B: Tensor | None = None, levels: int | None = None
    ) -> QuantizerOutput:
        """Quantise latents.

        Args:
            latent_BFL: any floating dtype; computed in float32.
            depth_B: int64, levels in use for each item, 1…Q; None uses all.
            levels: compute only so many levels, for encoding; None computes all.
        """
        levels = self.levels if levels is None else levels
        batch, frames, width = latent_BFL.shape
        with torch.autocast(latent_BFL.device.type, enabled=False):
            residual_NL = latent_BFL.float().reshape(batch * frames, width)
            used_QN = self._used(depth_B, levels, batch, frames, residual_NL.device)
            if kernels.usable(residual_NL) and width <= MOST_CHANNELS and self.dim <= MOST_DIMENSIONS:
                return self._fused(residual_NL, depth_B, levels, (batch, frames), used_QN)
            total_NL = torch.zeros_like(residual_NL)
            commitment, codebook = residual_NL.new_zeros(()), residual_NL.new_zeros(())
            codes, vectors = [], []
            for level in range(levels):
                used_N1 = used_QN[level, :, None].to(residual_NL.dtype)
                vector_ND = self.project_in[level](residual_NL)
                found_N = nearest(vector_ND, self.codebooks_QKD[level], self.lookup)
                code_ND = functional.embedding(found_N, self.codebooks_QKD[level])
                commitment = commitment + ((vector_ND - code_ND.detach()).square() * used_N1).sum()
                codebook = codebook + ((code_ND - vector_ND.detach()).square() * used_N1).sum()
                # Straight-through (Bengio et al. 2013), added so that the value is the code to the last bit.
                through_ND = code_ND.detach() + (vector_ND - vector_ND.detach())
                decoded_NL = self.project_out[level](through_ND)
                total_NL = total_NL + decoded_NL * used_N1
                residual_NL = residual_NL - decoded_NL
                codes.append(found_N)
                vectors.append(vector_ND.detach())
            count = levels * batch * frames * self.dim
            return QuantizerOutput(
                latent_BFL=total_NL.view(batch, frames, width),
                codes_BQT=torch.stack(codes).view(levels, batch, frames).transpose(0, 1),
                commitment_loss=commitment / count,
                codebook_loss=codebook / count if self.learning == "gradient" else codebook * 0.0,
                residuals_QND=torch.stack(vectors),
                used_QN=used_QN,
            )

    def _fused(
        self,
        latent_NL: Tensor,
        depth_B: Tensor | None,
        levels: int,
        shape: tuple[int, int],
        used_QN: Tensor,
    ) -> QuantizerOutput:
        from distill_ray.vqvae.kernels.rvq import rvq

        batch, frames = shape
        if depth_B is None:
            depth_B = torch.full((batch,), levels, device=latent_NL.device)
        inward, outward = list(self.project_in)[:levels], list(self.project_out)[:levels]
        chain = rvq(
            latent_NL,
            depth_B,
            *(torch.stack([getattr(part, name) for part in inward]) for name in ("weight", "bias")),
            *(torch.stack([getattr(part, name) for part in outward]) for name in ("weight", "bias")),
            self.codebooks_QKD,
            lookup=self.lookup,
        )
        count = levels * batch * frames * self.dim
        learned = 1.0 if self.learning == "gradient" else 0.0
        return QuantizerOutput(
            latent_BFL=chain.total_NL.view(batch, frames, -1),
            codes_BQT=chain.codes_QN.view(levels, batch, frames).transpose(0, 1),
            commitment_loss=chain.commitment / count,
            codebook_loss=learned * chain.codebook / count,
            residuals_QND=chain.vectors_QND,
            used_QN=used_QN,
        )

    def _used(
        self, depth_B: Tensor | None, levels: int, batch: int, frames: int, device: torch.device
    ) -> Tensor:
        if depth_B is None:
            return torch.ones(levels, batch * frames, dtype=torch.bool, device=device)
        used_QB = torch.arange(levels, device=device)[:, None] < depth_B
        return used_QB.repeat_interleave(frames, dim=1, output_size=batch * frames)

    def decode(self, codes_BQT: Tensor) -> Tensor:
        """Latents [B, F, L] float32 of the first levels' codes; fewer levels than Q give a coarser sum."""
        with torch.autocast(codes_BQT.device.type, enabled=False):
            levels = codes_BQT.shape[1]
            decoded = [
                self.project_out[level](functional.embedding(codes_BQT[:, level], self.codebooks_QKD[level]))
                for level in range(levels)
            ]
            return torch.stack(decoded).sum(0)

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """What each code adds to the latents, float32 [Q, K, L]."""
        with torch.autocast(self.codebooks_QKD.device.type, enabled=False):
            return torch.stack(
                [
                    outward(codebook_KD)
                    for outward, codebook_KD in zip(self.project_out, self.codebooks_QKD, strict=True)
                ]
            )

    def counts(self, codes_BQT: Tensor, used_QN: Tensor) -> Tensor:
        """How often each code is in use, float32 [Q, K]; sum these over ranks."""
        codes_QN = codes_BQT.transpose(0, 1).flatten(1)
        counts_QK = torch.zeros(len(codes_QN), self.size, device=codes_QN.device)
        return counts_QK.scatter_add_(1, codes_QN, used_QN.float())

    @torch.no_grad()
    def ema_statistics(self, output: Quantization) -> Tensor:
        """Sum of the vectors that use each code, float32 [Q, K, D]; sum these over ranks."""
        codes_QN = output.codes_BQT.transpose(0, 1).flatten(1)
        if kernels.usable(output.residuals_QND) and self.dim <= MOST_DIMENSIONS:
            from distill_ray.vqvae.kernels.rvq import statistics

            return statistics(codes_QN, output.residuals_QND, output.used_QN, self.size).sums_QKD
        levels = zip(output.residuals_QND, codes_QN, output.used_QN.float(), strict=True)
        return torch.stack([sums_by_code(*level, self.size) for level in levels])

    @torch.no_grad()
    def ema_update(self, counts_QK: Tensor, sums_QKD: Tensor, sound: Tensor | None = None) -> None:
        """Move EMA codebooks towards the mean of their vectors, given sums over all ranks.

        `sound`: a bool scalar on the device; where it is false nothing moves. None is true.
        """
        assert self.learning == "ema", "only EMA codebooks have one"
        share = counts_QK.new_tensor(1 - self.decay) if sound is None else (1 - self.decay) * sound.float()
        self.ema_counts_QK.lerp_(counts_QK, share)
        self.ema_sums_QKD.lerp_(sums_QKD, share)
        known_QK1 = (self.ema_counts_QK > SMALLEST_EMA_COUNT)[..., None]
        mean_QKD = self.ema_sums_QKD / self.ema_counts_QK.clamp(min=SMALLEST_EMA_COUNT)[..., None]
        self.codebooks_QKD.copy_(torch.where(known_QK1, mean_QKD, self.codebooks_QKD))

    @torch.no_grad()
    def initialise(
        self,
        latents_NL: Tensor,
        generator: torch.Generator,
        goes_on: Callable[[str], bool] = lambda what: True,
    ) -> None:
        """Start all codebooks by k-means, each level on what the levels before it leave over.

        Args:
            latents_NL: vectors that enter the quantiser, from all ranks, in the same order everywhere.
            generator: CPU generator in the same state everywhere.
            goes_on: as for `VQVAE.initialise`.
        """
        residual_NL = latents_NL.float()
        for level in range(self.levels):
            vectors_ND = self.project_in[level](residual_NL)
            what = f"codebook {level + 1} of {self.levels}"
            centres_KD = kmeans(
                vectors_ND, self.size, generator, lookup=self.lookup, goes_on=partial(goes_on, what)
            )
            self._place(level, torch.arange(self.size, device=centres_KD.device), centres_KD)
            codes_N = nearest(vectors_ND, centres_KD, self.lookup)
            residual_NL = residual_NL - self.project_out[level](centres_KD[codes_N])

    def dead_mask(self, counts_QK: Tensor) -> Tensor:
        """Codes used less than `reseed_threshold` times uniform use: bool [Q, K].

        A level that counted nothing has no dead codes.
        """
        uniform_Q1 = counts_QK.sum(1, keepdim=True) / self.size
        return counts_QK < self.reseed_threshold * uniform_Q1

    @torch.no_grad()
    def reseed(self, dead_QK: Tensor, candidates_QND: Tensor, generator: torch.Generator) -> Tensor:
        """Replace dead codes by random candidates, and their EMA with them; returns the replaced rows [Q, K].

        An EMA row left as it was would overwrite the new code at the next update.

        Args:
            dead_QK: bool, from `dead_mask` of counts over all ranks.
            candidates_QND: looked-up vectors of each level, such as `residuals_QND` gathered from all ranks.
            generator: CPU generator; equal state and inputs give equal codebooks on every rank.
        """
        for level in range(self.levels):
            rows = dead_QK[level].nonzero().squeeze(1)
            if len(rows):
                self._place(level, rows, distinct_sample(candidates_QND[level], len(rows), generator))
        return dead_QK

    def _place(self, level: int, rows: Tensor, codes_KD: Tensor) -> None:
        self.codebooks_QKD[level, rows] = codes_KD
        if self.learning == "ema":
            # One vector's weight: heavy enough to stand, light enough to follow its own vectors soon.
            self.ema_counts_QK[level, rows] = 1.0
            self.ema_sums_QKD[level, rows] = codes_KD
