"""Small models and audio for the codec's tests."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import VQVAEConfig

MAGNITUDES = VQVAEConfig(
    purpose="generation",
    decoder_head="magnitudes",
    encoder_input="magnitudes",
    sample_rate=16_000,
    codebook_size=32,
    num_quantizers=3,
    codebook_dim=16,
    latent_dim=16,
    width=32,
    encoder_blocks=1,
    decoder_blocks=1,
    n_fft=512,
    hop=128,
    stride=4,
)


def tones(items: int = 8) -> Tensor:
    """[B, 1, 8192]: held tones of another pitch and level in each."""
    time_T = torch.arange(8192) / MAGNITUDES.sample_rate
    hertz_B = 200.0 * 2.0 ** (torch.arange(items) * 5 % 24 / 12.0)
    level_B = 0.05 + 0.4 * (torch.arange(items) % 3) / 2
    return (level_B[:, None] * torch.sin(2 * torch.pi * hertz_B[:, None] * time_T))[:, None]


@pytest.fixture
def config() -> VQVAEConfig:
    return VQVAEConfig(
        sample_rate=16_000,
        codebook_size=16,
        num_quantizers=3,
        codebook_dim=4,
        codebook_learning="gradient",
        width=16,
        encoder_blocks=1,
        decoder_blocks=1,
        latent_dim=16,
        n_fft=128,
        hop=32,
    )


@pytest.fixture
def audio_BCT() -> Tensor:
    """Four seconds in four items: decaying tones with a little noise, [4, 1, 16000]."""
    generator = torch.Generator().manual_seed(1)
    seconds = torch.arange(16_000) / 16_000
    pitch_B1 = 100 * 2 ** (3 * torch.rand(4, 1, generator=generator))
    tones = torch.sin(2 * math.pi * pitch_B1 * seconds) * torch.exp(-3 * (seconds % 0.25))
    return (0.5 * tones + 0.01 * torch.randn(4, 16_000, generator=generator))[:, None]
