"""A training step's kernels give the values and gradients of torch; without a GPU in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.prior import fusing
from distill_ray.prior.transformer import Sight, Transformer

kernels = pytest.importorskip("distill_ray.prior.training_kernels")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - expected).norm() <= tolerance * expected.norm())


def small(dropout: float = 0.0) -> Transformer:
    torch.manual_seed(2)
    return Transformer(
        hidden_size=24, num_layers=2, num_heads=2, dropout=dropout, window=8, usual_steps=8
    ).to(DEVICE)


def gradients(model: Transformer, x_BSE: Tensor, y_BSE: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    way_BSE = torch.randn(y_BSE.shape, generator=generator).to(DEVICE)
    return list(torch.autograd.grad((y_BSE * way_BSE).sum(), [x_BSE, *model.parameters()]))


def test_a_transformer_of_kernels_is_the_transformer() -> None:
    model = small()
    for weight in model.parameters():
        weight.detach().mul_(4.0 if weight.dim() > 1 else 1.3)
    x_BSE = torch.randn(2, 3, 24, device=DEVICE, requires_grad=True)
    expected = model(x_BSE)
    cos_SD, sin_SD = model.rotary_cos[:3], model.rotary_sin[:3]
    found = model.through_kernels(x_BSE, cos_SD, sin_SD, Sight(causal=True))
    assert near(found, expected)
    for one, other in zip(gradients(model, x_BSE, found), gradients(model, x_BSE, expected), strict=True):
        assert near(one, other)


def test_dropout_is_of_its_chance_seeded_and_the_same_on_the_way_back() -> None:
    y_NE = torch.ones(20, 60, device=DEVICE, requires_grad=True)
    weight_E, seed_1 = torch.ones(60, device=DEVICE), torch.tensor([5], device=DEVICE)

    def dropped(seed_1: Tensor) -> Tensor:
        sum_NE, normed_NE = kernels._AddNorm.apply(None, y_NE, weight_E, seed_1, 0.3, 1e-6, torch.float32)
        return sum_NE + 0.0 * normed_NE

    sum_NE = dropped(seed_1)
    assert sum_NE.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert float((sum_NE == 0).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert torch.equal(dropped(seed_1), sum_NE)
    assert float((dropped(seed_1 + 1) == sum_NE).float().mean()) < 0.7
    (grad_NE,) = torch.autograd.grad(sum_NE.sum(), y_NE)
    assert torch.equal(grad_NE, sum_NE.detach())


def test_in_training_numbers_are_those_of_the_seed() -> None:
    model = small(dropout=0.2)
    x_BSE = torch.randn(1, 2, 24, device=DEVICE)

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        cos_SD, sin_SD = model.rotary_cos[:2], model.rotary_sin[:2]
        return model.through_kernels(x_BSE, cos_SD, sin_SD, Sight(causal=True))

    first = drawn(1)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)
    model.eval()
    assert near(drawn(3), model(x_BSE))


@pytest.mark.parametrize("size", [16, 21])
def test_nats_and_their_gradient(size: int) -> None:
    logits_NK = (4 * torch.randn(9, size)).to(DEVICE).requires_grad_()
    targets_N = torch.randint(size, (9,), device=DEVICE)
    targets_N[3] = -100
    expected = functional.cross_entropy(logits_NK, targets_N, ignore_index=-100, reduction="none")
    found = kernels.nats(logits_NK, targets_N)
    assert near(found, expected)
    weight_N = torch.rand(9, device=DEVICE)
    (grad,) = torch.autograd.grad((found * weight_N).sum(), logits_NK)
    (expected_grad,) = torch.autograd.grad((expected * weight_N).sum(), logits_NK)
    assert near(grad, expected_grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_in_half_precision() -> None:
    model = small()
    x_BSE = torch.randn(4, 20, 24, device=DEVICE, requires_grad=True)  # beyond the window
    values = []
    for wanted in (False, True):
        with fusing.enabled(wanted), torch.autocast("cuda", torch.bfloat16):
            y_BSE = model(x_BSE)
        values.append([y_BSE.float(), *gradients(model, x_BSE, y_BSE)])
    for one, other in zip(*values, strict=True):
        assert near(one.float(), other.float(), 0.03)
