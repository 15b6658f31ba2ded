from __future__ import annotations

import dataclasses

import pytest
import torch

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.decoder import Decoder


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_frame_hop_for_each_latent(config: VQVAEConfig, stride: int, channels: int) -> None:
    config = dataclasses.replace(config, stride=stride, channels=channels)
    audio = Decoder(config)(torch.randn(2, 7, config.latent_dim))
    assert audio.shape == (2, channels, 7 * config.frame_hop)
    assert audio.dtype == torch.float32


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_context_covers_the_receptive_field(config: VQVAEConfig, stride: int) -> None:
    config = dataclasses.replace(config, stride=stride)
    torch.manual_seed(0)
    decoder = Decoder(config)
    frames, middle = 41, 20
    latents = torch.randn(1, frames, config.latent_dim, requires_grad=True)
    hop = config.frame_hop
    decoder(latents)[0, 0, middle * hop : (middle + 1) * hop].mul(1e3).square().sum().backward()
    assert latents.grad is not None
    seen = latents.grad[0].abs().sum(1).nonzero().flatten()
    assert middle - seen.min() <= decoder.context_frames
    assert seen.max() - middle <= decoder.context_frames
    assert decoder.context_frames <= middle - seen.min() + 1
