from __future__ import annotations

import pytest
import torch

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae import kernels
from distill_ray.vqvae.quantizer import ResidualVectorQuantizer

pytest.importorskip("triton")

TIE = 0.999
"""Share of codes that must be the same: two that are equally near may be told apart by rounding."""


def both(learning: str, lookup: str, device: torch.device, *, size: int = 40, dim: int = 6, latent: int = 24):
    """A quantiser, latents, depths, and the weight of each output."""
    torch.manual_seed(0)
    config = VQVAEConfig(
        latent_dim=latent,
        codebook_dim=dim,
        codebook_size=size,
        num_quantizers=3,
        codebook_learning=learning,
        codebook_lookup=lookup,
    )
    quantizer = ResidualVectorQuantizer(config)
    for parameter in quantizer.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    latent_BFL, weight_BFL = torch.randn(2, 3, 21, latent)
    depth_B = torch.tensor([3, 1, 2])
    return quantizer.to(device), latent_BFL.to(device), depth_B.to(device), weight_BFL.to(device)


def run(quantizer, latent_BFL, depth_B, weight_BFL):
    """Outputs, and the gradients of latents and parameters when every output counts."""
    latent_BFL = latent_BFL.clone().requires_grad_()
    quantizer.zero_grad()
    output = quantizer(latent_BFL, depth_B)
    total = (output.latent_BFL * weight_BFL).sum() + 7 * output.commitment_loss + 3 * output.codebook_loss
    total.backward()
    gradients = {name: value.grad for name, value in quantizer.named_parameters() if value.requires_grad}
    return output, {"latent": latent_BFL.grad, **gradients}


@pytest.mark.parametrize("lookup", ["euclidean", "cosine"])
@pytest.mark.parametrize("learning", ["ema", "gradient"])
@pytest.mark.usefixtures("kernels_on")
def test_codes_losses_and_gradients_are_those_of_the_plain_chain(
    learning, lookup, device, assert_near, monkeypatch
) -> None:
    setting = both(learning, lookup, device)
    with monkeypatch.context() as plain:
        plain.setattr(kernels, "missing", lambda device_type: "none")
        expected, gradients = run(*setting)
    found, ours = run(*setting)
    assert (found.codes_BQT == expected.codes_BQT).float().mean() >= TIE
    assert torch.equal(found.used_QN, expected.used_QN)
    assert_near(found.latent_BFL, expected.latent_BFL)
    assert_near(found.residuals_QND, expected.residuals_QND)
    assert_near(found.commitment_loss, expected.commitment_loss)
    assert_near(found.codebook_loss, expected.codebook_loss)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert_near(ours[name], gradient)


@pytest.mark.usefixtures("kernels_on")
def test_statistics_are_sums_by_code(device, assert_near) -> None:
    from distill_ray.vqvae.kernels.rvq import statistics

    generator = torch.Generator().manual_seed(0)
    codes_QN = torch.randint(0, 70, (2, 1100), generator=generator)
    vectors_QND = torch.randn(2, 1100, 5, generator=generator)
    used_QN = torch.rand(2, 1100, generator=generator) < 0.7
    found = statistics(codes_QN.to(device), vectors_QND.to(device), used_QN.to(device), 70)
    for level in range(2):
        for code in range(70):
            chosen = (codes_QN[level] == code) & used_QN[level]
            assert float(found.counts_QK[level, code]) == float(chosen.sum())
            expected = vectors_QND[level][chosen].double().sum(0)
            assert_near(found.sums_QKD[level, code].cpu().double(), expected)


@pytest.mark.usefixtures("kernels_on")
def test_a_wide_latent_goes_the_plain_way(device) -> None:
    quantizer, _, depth_B, _ = both("ema", "euclidean", device, latent=512)
    output = quantizer(torch.randn(3, 4, 512, device=device, requires_grad=True), depth_B)
    assert "RVQ" not in type(output.latent_BFL.grad_fn).__name__
