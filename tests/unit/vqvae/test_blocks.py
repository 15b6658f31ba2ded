from __future__ import annotations

import pytest
import torch

from distill_ray.vqvae.blocks import REACH, ConvNeXtBlock, convnext_stack, init_linear


def test_sees_exactly_its_reach() -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(8, mlp_ratio=2, layer_scale=1.0, dropout=0.0)
    x_BFW = torch.randn(1, 21, 8, requires_grad=True)
    block(x_BFW)[0, 10].square().sum().backward()
    assert x_BFW.grad is not None
    seen = x_BFW.grad[0].abs().sum(1).nonzero().squeeze(1).tolist()
    assert seen == list(range(10 - REACH, 10 + REACH + 1))


def test_layer_scale_zero_is_the_identity() -> None:
    block = ConvNeXtBlock(8, mlp_ratio=2, layer_scale=0.0, dropout=0.5)
    x_BFW = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x_BFW), x_BFW)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(8, mlp_ratio=2, layer_scale=1.0, dropout=0.5)
    x_BFW = torch.randn(2, 5, 8)
    unchanged = (block(x_BFW) == x_BFW).float().mean()
    assert 0.3 < unchanged < 0.7
    block.eval()
    assert torch.equal(block(x_BFW), block(x_BFW))


def test_stack_starts_as_documented() -> None:
    torch.manual_seed(0)
    stack = convnext_stack(64, 2, total=4, mlp_ratio=4, dropout=0.0).apply(init_linear)
    for block in stack:
        assert isinstance(block, ConvNeXtBlock)
        assert block.scale.tolist() == [0.25] * 64
        assert block.contract.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert block.expand.bias.abs().max() == 0
