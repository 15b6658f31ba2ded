from __future__ import annotations

import dataclasses

import pytest
import torch

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.encoder import Encoder


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_one_latent_for_each_frame_hop(config: VQVAEConfig, stride: int, channels: int) -> None:
    config = dataclasses.replace(config, stride=stride, channels=channels)
    latents = Encoder(config)(torch.randn(2, channels, 7 * config.frame_hop))
    assert latents.shape == (2, 7, config.latent_dim)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_context_covers_the_receptive_field(config: VQVAEConfig, stride: int) -> None:
    config = dataclasses.replace(config, stride=stride)
    torch.manual_seed(0)
    encoder = Encoder(config)
    frames, middle = 41, 20
    audio = (0.1 * torch.randn(1, 1, frames * config.frame_hop)).requires_grad_()
    encoder(audio)[0, middle].square().sum().backward()
    assert audio.grad is not None
    seen = audio.grad[0, 0].view(frames, -1).abs().sum(1).nonzero().flatten()
    assert middle - seen.min() <= encoder.context_frames
    assert seen.max() - middle <= encoder.context_frames
    assert encoder.context_frames <= middle - seen.min() + 1


def test_silence_gives_finite_gradients(config: VQVAEConfig) -> None:
    encoder = Encoder(config)
    encoder(torch.zeros(1, 1, 4 * config.frame_hop)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
