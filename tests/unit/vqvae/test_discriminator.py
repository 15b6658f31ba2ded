from __future__ import annotations

import pytest
import torch

from distill_ray.config.adversarial import AdversarialConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.discriminator import PERIODS, WINDOWS, Discriminators, PeriodDiscriminator


def judges(channels: int = 1, *, banded: bool = False) -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(VQVAEConfig(channels=channels), 4, banded=banded)


@pytest.mark.parametrize(("banded", "hops", "layers"), [(False, 2, 4), (True, 4, 5 * 5)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [4096, 4999])
def test_one_judgement_of_each_window_and_period(
    channels: int, samples: int, banded: bool, hops: int, layers: int
) -> None:
    found = judges(channels, banded=banded)(torch.randn(3, channels, samples))
    assert len(found) == len(WINDOWS) + len(PERIODS)
    for judgement in found:
        assert judgement.logits.shape[:2] == (3, 1)
        assert all(len(value) == 3 for value in judgement.features)
    spectral, periodic = found[: len(WINDOWS)], found[len(WINDOWS) :]
    for window, judgement in zip(WINDOWS, spectral, strict=True):
        assert judgement.logits.shape[2] == -(-samples // (window // hops))  # one row a hop
        assert len(judgement.features) == layers
    for period, judgement in zip(PERIODS, periodic, strict=True):
        assert judgement.logits.shape[3] == period
        assert len(judgement.features) == 5


def test_items_are_judged_by_themselves() -> None:
    judge, audio_BCT = judges(), torch.randn(2, 1, 4096)
    for both, alone in zip(judge(audio_BCT), judge(audio_BCT[1:]), strict=True):
        assert torch.allclose(both.logits[1:], alone.logits, atol=1e-5)


def test_a_period_discriminator_keeps_the_phases_of_its_period_apart() -> None:
    judge, audio_BCT = PeriodDiscriminator(1, 5, 4), torch.randn(1, 1, 1000)
    other_BCT = audio_BCT.clone()
    other_BCT[..., 3::5] += 1.0
    changed = (judge(other_BCT).logits - judge(audio_BCT).logits).abs().amax(dim=(0, 1, 2))
    assert torch.equal(changed > 0, torch.tensor([False, False, False, True, False]))


def test_quiet_spectra_are_in_sight() -> None:
    """What is 60 dB below full scale moves the compressed spectra's judgement by more than a hundredth."""
    judge, quiet_BCT = judges(), 1e-3 * torch.randn(1, 1, 4096)
    loud, silent = judge(quiet_BCT)[0].features[0], judge(torch.zeros_like(quiet_BCT))[0].features[0]
    assert (loud - silent).abs().mean() > 0.01 * silent.abs().mean()


def test_at_the_default_width_the_periods_are_half_as_wide_as_hifi_gans() -> None:
    """Whose layers have 32, 128, 512, 1024 and 1024 channels."""
    own, published = (PeriodDiscriminator(1, 2, width) for width in (AdversarialConfig().width, 32))
    assert [layer.out_channels for layer in published.layers] == [32, 128, 512, 1024, 1024]
    count = [sum(value.numel() for value in judge.parameters()) for judge in (own, published)]
    assert count[0] / count[1] == pytest.approx(0.25, abs=0.01)


def test_every_parameter_learns() -> None:
    judge = judges(2)
    torch.stack([each.logits.square().mean() for each in judge(torch.randn(2, 2, 2048))]).sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in judge.parameters())
