from __future__ import annotations

import pytest
import torch

from distill_ray.vqvae.blocks import ConvNeXtBlock

pytest.importorskip("triton")


@pytest.mark.parametrize(("width", "frames"), [(24, 1), (24, 19), (64, 33)])
@pytest.mark.usefixtures("kernels_on")
def test_a_block_and_its_gradients_are_those_of_the_plain_one(width, frames, device, assert_near) -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(width, mlp_ratio=4, layer_scale=0.3, dropout=0.0)
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x_BFW, weight_BFW = torch.randn(2, 2, frames, width, dtype=torch.float64)
    reference = ConvNeXtBlock(width, mlp_ratio=4, layer_scale=0.3, dropout=0.5).double()
    reference.load_state_dict(block.state_dict())
    reference.eval()
    x_BFW.requires_grad_()
    # Dropout sends a block in training the plain way, whose eval mode has none.
    reference.train()
    reference.dropout.forward = lambda x: x  # type: ignore[method-assign]
    expected = reference(x_BFW)
    gradients = torch.autograd.grad(expected, [x_BFW, *reference.parameters()], weight_BFW)

    block.to(device)
    y_BFW = x_BFW.detach().float().to(device).requires_grad_()
    found = block(y_BFW)
    assert "ConvNeXt" in type(found.grad_fn).__name__
    assert_near(found.cpu().double(), expected)
    ours = torch.autograd.grad(found, [y_BFW, *block.parameters()], weight_BFW.float().to(device))
    for one, other in zip(ours, gradients, strict=True):
        assert_near(one.cpu().double(), other)


@pytest.mark.usefixtures("kernels_on")
def test_under_autocast_the_residual_stream_stays_float32(device, assert_near) -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(32, mlp_ratio=2, layer_scale=0.5, dropout=0.0).to(device)
    x_BFW = torch.randn(1, 10, 32, device=device)
    expected = block(x_BFW)
    with torch.autocast(device.type, torch.bfloat16):
        found = block(x_BFW.bfloat16())
    assert found.dtype == torch.float32
    assert_near(found, expected, 2e-2)
