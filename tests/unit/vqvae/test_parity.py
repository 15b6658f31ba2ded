"""The same codebooks and projections give the same codes in `vector-quantize-pytorch`, level after level.

Shapes: B items, F frames, L latent channels, D code dimension, Q RVQ levels, K codes, N = B · F vectors.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.quantizer import ResidualVectorQuantizer

LEVELS, SIZE, DIM, LATENT = 6, 64, 8, 32
TIE = 1e-5
"""Similarities closer than this are ties: the two libraries round differently."""


@pytest.fixture(scope="module")
def rival() -> ModuleType:
    """Not imported with this file: to load it takes longer than these tests."""
    module: ModuleType = pytest.importorskip("vector_quantize_pytorch")
    return module


@pytest.fixture
def quantizer() -> ResidualVectorQuantizer:
    torch.manual_seed(3)
    config = VQVAEConfig(
        codebook_size=SIZE,
        codebook_dim=DIM,
        num_quantizers=LEVELS,
        latent_dim=LATENT,
        codebook_learning="ema",
        codebook_lookup="cosine",
    )
    ours = ResidualVectorQuantizer(config).eval()
    with torch.no_grad():
        # Their codes are directions of length one; ours keep their length, so give both the same.
        ours.codebooks_QKD.copy_(functional.normalize(ours.codebooks_QKD, dim=-1))
        # Projections out that are no transposes, and biases: residuals depend on every detail.
        for inward, outward in zip(ours.project_in, ours.project_out, strict=True):
            outward.weight.add_(0.1 * torch.randn_like(outward.weight))
            inward.bias.normal_(std=0.1)
            outward.bias.normal_(std=0.1)
    return ours


@pytest.fixture
def latent_BFL() -> Tensor:
    return torch.randn(4, 100, LATENT, generator=torch.Generator().manual_seed(4))


def same_but_for_ties(ours: ResidualVectorQuantizer, latent_BFL: Tensor, theirs_BQT: Tensor) -> bool:
    """Whether the first level at which a vector's codes differ, if any, is a tie in our similarities."""
    output = ours(latent_BFL)
    ours_NQ, theirs_NQ = (codes.transpose(1, 2).flatten(0, 1) for codes in (output.codes_BQT, theirs_BQT))
    rows = (ours_NQ != theirs_NQ).any(1).nonzero().squeeze(1).tolist()
    for row in rows:
        level = int((ours_NQ[row] != theirs_NQ[row]).nonzero()[0])
        vector_D = functional.normalize(output.residuals_QND[level, row], dim=0)
        similarity_K = functional.normalize(ours.codebooks_QKD[level], dim=-1) @ vector_D
        if abs(float(similarity_K[ours_NQ[row, level]] - similarity_K[theirs_NQ[row, level]])) > TIE:
            return False
    return len(rows) <= len(ours_NQ) // 50


@torch.no_grad()
def test_factorised_levels_choose_the_same_codes(
    rival: ModuleType, quantizer: ResidualVectorQuantizer, latent_BFL: Tensor
) -> None:
    residual_BFL, found, total_BFL = latent_BFL, [], torch.zeros_like(latent_BFL)
    for level in range(LEVELS):
        theirs = rival.VectorQuantize(
            dim=LATENT, codebook_dim=DIM, codebook_size=SIZE, use_cosine_sim=True, rotation_trick=False
        ).eval()
        theirs.project_in.load_state_dict(quantizer.project_in[level].state_dict())
        theirs.project_out.load_state_dict(quantizer.project_out[level].state_dict())
        theirs.codebook = quantizer.codebooks_QKD[level]
        quantised_BFL, codes_BF, _ = theirs(residual_BFL)
        residual_BFL, total_BFL = residual_BFL - quantised_BFL, total_BFL + quantised_BFL
        found.append(codes_BF)
    theirs_BQT = torch.stack(found, dim=1)
    ours = quantizer(latent_BFL)
    assert same_but_for_ties(quantizer, latent_BFL, theirs_BQT)
    agree_BF1 = (ours.codes_BQT == theirs_BQT).all(1)[..., None]
    torch.testing.assert_close(ours.latent_BFL * agree_BF1, total_BFL * agree_BF1, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_residual_vq_chooses_the_same_codes(
    rival: ModuleType, quantizer: ResidualVectorQuantizer, latent_BFL: Tensor
) -> None:
    """ResidualVQ projects once for all levels, so ours gets the same projection at every level. Residuals
    then agree where projecting out and in again changes nothing.
    """
    basis_DL = torch.linalg.qr(torch.randn(LATENT, DIM, generator=torch.Generator().manual_seed(5)))[0].T
    for inward, outward in zip(quantizer.project_in, quantizer.project_out, strict=True):
        inward.weight.copy_(basis_DL)
        outward.weight.copy_(basis_DL.T)
        inward.bias.zero_()
        outward.bias.zero_()
    theirs = rival.ResidualVQ(
        dim=LATENT,
        codebook_dim=DIM,
        num_quantizers=LEVELS,
        codebook_size=SIZE,
        use_cosine_sim=True,
        rotation_trick=False,
    ).eval()
    theirs.project_in.load_state_dict(quantizer.project_in[0].state_dict())
    theirs.project_out.load_state_dict(quantizer.project_out[0].state_dict())
    for layer, codebook_KD in zip(theirs.layers, quantizer.codebooks_QKD, strict=True):
        layer.codebook = codebook_KD
    _, codes_BFQ, _ = theirs(latent_BFL)
    assert same_but_for_ties(quantizer, latent_BFL, codes_BFQ.transpose(1, 2))
