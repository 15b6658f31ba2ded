"""What a code frame's latents may be, given its codes: a flow from noise to them, frame by frame.

Codes keep a few of a frame's principal components, and those coarsely. The network here learns what the
others, and the rest of these, are like beside the codes around a frame, so that a decoder can draw a sharp
spectrum where the mean of all that would fit is blurred (docs/decisions/0029-flow-and-openings.md).
`flow_decoder.py` makes spectra of them.

Flow matching on straight paths (Lipman et al. 2023; Liu et al. 2023), times drawn as by Esser et al. 2024.
The codes are looked at once (`conditions`), every step of the flow sees its own frame only, and frames hang
together by noise that follows on itself: sound made in pieces is that made at once.

Shapes: B batch, F code frames, L latent channels (quantised), D components of a frame, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.blocks import REACH, convnext_stack, init_linear
from distill_ray.vqvae.magnitudes import Magnitudes

STEPS = 8
"""Of Euler's method from noise to latents; 16 were no better by the judge."""
WARMTH = 0.6
"""Factor of the noise that a flow begins with. At 1 a network that has not learnt all there is scatters
more than recordings do; the judge was nearest at 0.5 for speech and at 0.7 for music."""
_LEAST_BLOCKS = 2
_FREQUENCIES, _FREQUENCY_RATIO = 16, 0.4
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True)
class Transport:
    """What a flow is learnt from, and what is told of it."""

    velocity_BFD: Tensor
    wanted_BFD: Tensor
    weight_D: Tensor
    """What an error of a component counts."""
    drawn: Magnitudes | None = None
    """Only without gradients: what a sound with the same codes has."""


class FlowBlock(nn.Module):
    """A residual MLP of one frame whose norm is scaled and shifted by time and codes (adaptive LayerNorm,
    Peebles & Xie 2023); it starts as the identity.
    """

    def __init__(self, width: int, *, mlp_ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adapt = nn.Linear(width, 2 * width)
        self.expand = nn.Linear(width, mlp_ratio * width)
        self.contract = nn.Linear(mlp_ratio * width, width)

    def forward(self, x_BFW: Tensor, told_BFW: Tensor) -> Tensor:
        scale_BFW, shift_BFW = self.adapt(told_BFW).chunk(2, dim=-1)
        hidden = functional.gelu(self.expand(self.norm(x_BFW) * (1.0 + scale_BFW) + shift_BFW))
        out_BFW: Tensor = x_BFW + self.contract(hidden)
        return out_BFW


class LatentFlow(nn.Module):
    """Noise to the latents of code frames, in units of their deviation from what codes say on average.

    Args:
        config: width and blocks.
        components: D.
    """

    def __init__(self, config: VQVAEConfig, components: int) -> None:
        super().__init__()
        width, blocks = config.width, max(_LEAST_BLOCKS, config.decoder_blocks)
        self._conditioning_noise = config.conditioning_noise
        self.context_frames = blocks * REACH
        self.codes = nn.Linear(config.latent_dim, width)
        self.around = convnext_stack(
            width, blocks, total=blocks, mlp_ratio=config.mlp_ratio, dropout=config.dropout
        )
        self.codes_norm = nn.LayerNorm(width, eps=1e-6)
        self.times = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.GELU(), nn.Linear(width, width))
        self.embed = nn.Linear(components, width)
        self.blocks = nn.ModuleList(FlowBlock(width, mlp_ratio=config.mlp_ratio) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, components)
        self.apply(init_linear)
        for block in self.blocks:
            assert isinstance(block, FlowBlock)
            nn.init.zeros_(block.contract.weight)
            nn.init.zeros_(block.adapt.weight)
        # A velocity of zero everywhere: at first what is drawn is noise of the right deviation.
        nn.init.zeros_(self.head.weight)

    def conditions(self, latent_BFL: Tensor) -> Tensor:
        """[B, F, W] of quantised latents of about unit deviation; each depends on `context_frames` a side."""
        told_BFW: Tensor = self.codes_norm(self.around(self.codes(latent_BFL)))
        return told_BFW

    def velocity(self, x_BFD: Tensor, told_BFW: Tensor, time_BF: Tensor) -> Tensor:
        """Where `x_BFD` goes at `time_BF` in [0, 1]: [B, F, D]."""
        rates_J = torch.exp(_FREQUENCY_RATIO * torch.arange(_FREQUENCIES, device=x_BFD.device))
        angle_BFJ = time_BF[..., None] * rates_J
        told_BFW = told_BFW + self.times(torch.cat([angle_BFJ.sin(), angle_BFJ.cos()], dim=-1))
        hidden_BFW = self.embed(x_BFD) + told_BFW
        for block in self.blocks:
            hidden_BFW = block(hidden_BFW, told_BFW)
        velocity_BFD: Tensor = self.head(self.norm(hidden_BFW))
        return velocity_BFD.float()

    def transport(self, latent_BFL: Tensor, wanted_BFD: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity that is given and the one that leads to `wanted_BFD`, [B, F, D] each: in training at
        random places of the flow, of noisy latents (by the device's default generator), else at places that
        stay the same.
        """
        shape = wanted_BFD.shape
        if self.training:
            if self._conditioning_noise:
                # What a prior says is near what recordings have, not the same (conditioning augmentation, Ho
                # et al. 2022). Without, runs of before draw the random numbers that they did.
                latent_BFL = latent_BFL + self._conditioning_noise * torch.randn_like(latent_BFL)
            noise_BFD = torch.randn_like(wanted_BFD)
            time_BF = torch.sigmoid(torch.randn(shape[:2], device=wanted_BFD.device))
        else:
            generator = torch.Generator().manual_seed(0)
            noise_BFD = torch.randn(shape, generator=generator).to(wanted_BFD)
            count = torch.arange(1, shape[0] * shape[1] + 1, device=wanted_BFD.device).view(shape[:2])
            # A logistic sigmoid of normal numbers, evenly spread.
            time_BF = torch.sigmoid(torch.special.ndtri((count * _GOLDEN % 1.0).clamp(1e-4, 1.0 - 1e-4)))
        place_BF1 = time_BF[..., None]
        x_BFD = (1.0 - place_BF1) * noise_BFD + place_BF1 * wanted_BFD
        return self.velocity(x_BFD, self.conditions(latent_BFL), time_BF), wanted_BFD - noise_BFD

    def drawn(self, noise_BFD: Tensor, told_BFW: Tensor) -> Tensor:
        """Where noise of unit deviation ends, [B, F, D], of `conditions` of the same frames."""
        x_BFD = WARMTH * noise_BFD.expand(len(told_BFW), -1, -1)
        for step in range(STEPS):
            time_BF = torch.full(x_BFD.shape[:2], step / STEPS, device=x_BFD.device)
            x_BFD = x_BFD + self.velocity(x_BFD, told_BFW, time_BF) / STEPS
        return x_BFD


class FrameNoise:
    """Noise of unit deviation that comes frame by frame, on the CPU; each component follows on itself by its
    own correlation of neighbouring frames, [D].
    """

    def __init__(self, correlation_D: Tensor, *, seed: int) -> None:
        self._correlation_D = correlation_D
        self._fresh_D = (1.0 - correlation_D.square()).sqrt()
        self._generator = torch.Generator().manual_seed(seed)
        self._last_D: Tensor | None = None

    def take(self, frames: int) -> Tensor:
        """The next frames, [F, D]."""
        taken = []
        for _ in range(frames):
            new_D = torch.randn(len(self._correlation_D), generator=self._generator)
            if self._last_D is not None:
                new_D = self._correlation_D * self._last_D + self._fresh_D * new_D
            self._last_D = new_D
            taken.append(new_D)
        return torch.stack(taken) if taken else self._correlation_D.new_zeros(0, len(self._correlation_D))
