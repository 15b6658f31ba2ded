from __future__ import annotations

import pytest
import torch

from distill_ray.vqvae.adversarial import (
    adversarial_loss,
    balanced_gradient,
    discriminator_loss,
    feature_matching_loss,
)
from distill_ray.vqvae.discriminator import Judgement


def judged(*logits: list[float], features: tuple[torch.Tensor, ...] = ()) -> list[Judgement]:
    """A judgement for each list of logits, one item each."""
    return [Judgement(logits=torch.tensor(values).reshape(1, 1, -1), features=features) for values in logits]


def test_hinge_by_hand() -> None:
    real, fake = judged([2.0, 0.5], [-1.0]), judged([-3.0, 0.0], [1.0])
    # mean(0, 0.5) + mean(0, 1) and 2 + 2, averaged
    assert discriminator_loss(real, fake, kind="hinge").item() == pytest.approx((0.25 + 0.5 + 4.0) / 2)
    assert adversarial_loss(fake, kind="hinge").item() == pytest.approx((1.5 - 1.0) / 2)


def test_lsgan_by_hand() -> None:
    real, fake = judged([2.0, 0.5]), judged([-3.0, 0.0])
    assert discriminator_loss(real, fake, kind="lsgan").item() == pytest.approx((1 + 0.25) / 2 + 9 / 2)
    assert adversarial_loss(fake, kind="lsgan").item() == pytest.approx((16 + 1) / 2)


def test_feature_matching_is_relative_and_a_mean_over_items() -> None:
    target = torch.tensor([[1.0, 3.0], [10.0, 10.0]])
    other = target + torch.tensor([[1.0, -1.0], [5.0, 0.0]])
    real, fake = judged([0.0], features=(target,)), judged([0.0], features=(other,))
    assert feature_matching_loss(real, real).item() == 0.0
    assert feature_matching_loss(real, fake).item() == pytest.approx((1.0 / 2.0 + 2.5 / 10.0) / 2)
    louder = judged([0.0], features=(100 * target,)), judged([0.0], features=(100 * other,))
    assert feature_matching_loss(*louder).item() == pytest.approx(feature_matching_loss(real, fake).item())


def test_feature_matching_pulls_the_reconstruction_only() -> None:
    target, other = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    loss = feature_matching_loss(judged([0.0], features=(target,)), judged([0.0], features=(other,)))
    loss.backward()
    assert target.grad is None
    assert other.grad is not None


@pytest.mark.parametrize("share", [0.1, 1.0, 3.0])
def test_the_other_gradient_gets_its_share_of_each_items_norm(share: float) -> None:
    base_BCT, other_BCT = (
        torch.randn(3, 1, 50),
        torch.randn(3, 1, 50) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None],
    )
    added_BCT = balanced_gradient(base_BCT, other_BCT, share) - base_BCT
    norms_B = added_BCT.flatten(1).norm(dim=1) / base_BCT.flatten(1).norm(dim=1)
    assert torch.allclose(norms_B, torch.full((3,), share), rtol=1e-3)
    cosine_B = torch.cosine_similarity(added_BCT.flatten(1), other_BCT.flatten(1))
    assert torch.allclose(cosine_B, torch.ones(3), atol=1e-5)


def test_without_a_gradient_there_is_nothing_to_balance() -> None:
    base_BCT, nothing_BCT = torch.randn(2, 1, 8), torch.zeros(2, 1, 8)
    assert torch.equal(balanced_gradient(base_BCT, nothing_BCT, 1.0), base_BCT)
    assert torch.equal(balanced_gradient(nothing_BCT, base_BCT, 1.0), nothing_BCT)
