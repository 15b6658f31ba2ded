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


@pytest.mark.parametrize("channels", [1, 2])
def test_it_starts_from_the_mean_spectrum(config: VQVAEConfig, channels: int) -> None:
    config = dataclasses.replace(config, channels=channels)
    generator = torch.Generator().manual_seed(0)
    # The second channel is 20 dB below the first, and all of it is in the lower half of the spectrum.
    noise = torch.randn(4, channels, 64 * config.frame_hop, generator=generator)
    spectrum = torch.fft.rfft(noise)
    spectrum[..., spectrum.shape[-1] // 2 :] = 0
    recordings = torch.fft.irfft(spectrum) * torch.tensor([0.1, 0.01])[:channels, None]
    decoder = Decoder(config)
    decoder.start_from(recordings, generator)

    def levels(audio_BCT: torch.Tensor) -> torch.Tensor:
        """dB of the lower and the upper half of each channel's spectrum."""
        power = decoder.stft(audio_BCT).abs().square().mean((0, 2))
        halves = torch.stack([half.mean(-1) for half in power.chunk(2, dim=-1)])
        return 10 * halves.clamp(min=1e-12).log10()

    with torch.no_grad():
        decoded = decoder(torch.randn(4, 64, config.latent_dim, generator=generator))
    lower, upper = levels(decoded)
    expected, _ = levels(recordings)
    # Frames of one phase cancel in part where they overlap, by some 8 dB.
    assert ((lower - expected + 8.0).abs() < 4.0).all()
    assert (upper < lower - 15.0).all()


def test_one_seed_is_one_start(config: VQVAEConfig) -> None:
    recordings, decoder = torch.randn(2, 1, 8 * config.frame_hop), Decoder(config)
    biases = []
    for seed in (0, 0, 1):
        decoder.start_from(recordings, torch.Generator().manual_seed(seed))
        biases.append(decoder.head.bias.detach().clone())
    assert torch.equal(biases[0], biases[1])
    assert not torch.equal(biases[0], biases[2])


def test_without_its_norm_it_has_the_weights_of_before(config: VQVAEConfig) -> None:
    before = Decoder(dataclasses.replace(config, decoder_norm=False))
    added = set(Decoder(config).state_dict()) - set(before.state_dict())
    assert added == {"embed_norm.weight", "embed_norm.bias"}
