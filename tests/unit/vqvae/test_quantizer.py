from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.vqvae.quantizer import ResidualVectorQuantizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def latent_BFL() -> Tensor:
    return torch.randn(6, 10, 16, generator=seeded(1))


@pytest.fixture
def quantizer(config: VQVAEConfig) -> ResidualVectorQuantizer:
    torch.manual_seed(0)
    return ResidualVectorQuantizer(config)


def with_ema(config: VQVAEConfig, **changes: object) -> ResidualVectorQuantizer:
    torch.manual_seed(0)
    return ResidualVectorQuantizer(dataclasses.replace(config, codebook_learning="ema", **changes))


def test_value_is_the_decoded_codes_to_the_last_bit(
    quantizer: ResidualVectorQuantizer, latent_BFL: Tensor
) -> None:
    output = quantizer(latent_BFL)
    assert output.codes_BQT.shape == (6, 3, 10)
    assert output.codes_BQT.dtype == torch.int64
    torch.testing.assert_close(output.latent_BFL, quantizer.decode(output.codes_BQT), atol=1e-6, rtol=0)


def test_gradient_goes_straight_through(config: VQVAEConfig, latent_BFL: Tensor) -> None:
    quantizer = ResidualVectorQuantizer(config)
    latent_BFL.requires_grad_()
    one = torch.ones(6, dtype=torch.int64)
    quantizer(latent_BFL, one).latent_BFL.sum().backward()
    inward, outward = quantizer.project_in[0].weight, quantizer.project_out[0].weight
    expected = torch.ones(16) @ outward @ inward
    torch.testing.assert_close(latent_BFL.grad, expected.expand(6, 10, 16), atol=1e-6, rtol=1e-5)


def test_every_parameter_has_a_gradient_whatever_the_depth(
    quantizer: ResidualVectorQuantizer, latent_BFL: Tensor
) -> None:
    output = quantizer(latent_BFL, torch.ones(6, dtype=torch.int64))
    (output.latent_BFL.sum() + output.commitment_loss + output.codebook_loss).backward()
    assert all(parameter.grad is not None for parameter in quantizer.parameters())
    assert quantizer.codebooks_QKD.grad is not None
    assert quantizer.codebooks_QKD.grad[0].abs().sum() > 0
    assert quantizer.codebooks_QKD.grad[1:].abs().sum() == 0


def test_truncated_depth_is_the_partial_sum(quantizer: ResidualVectorQuantizer, latent_BFL: Tensor) -> None:
    codes_BQT = quantizer(latent_BFL).codes_BQT
    for depth in (1, 2, 3):
        at_depth = quantizer(latent_BFL, torch.full((6,), depth))
        assert torch.equal(at_depth.codes_BQT, codes_BQT)
        torch.testing.assert_close(
            at_depth.latent_BFL, quantizer.decode(codes_BQT[:, :depth]), atol=1e-6, rtol=0
        )
        assert torch.equal(quantizer(latent_BFL, levels=depth).codes_BQT, codes_BQT[:, :depth])


def test_used_follows_the_depth_of_each_item(quantizer: ResidualVectorQuantizer, latent_BFL: Tensor) -> None:
    output = quantizer(latent_BFL, torch.tensor([1, 2, 3, 3, 2, 1]))
    used_QBF = output.used_QN.view(3, 6, 10)
    expected_QB = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]]).bool()
    assert torch.equal(used_QBF, expected_QB[..., None].expand(3, 6, 10))
    counts_QK = quantizer.counts(output.codes_BQT, output.used_QN)
    assert counts_QK.sum(1).tolist() == [60.0, 40.0, 20.0]
    item = output.codes_BQT[2, 2]
    last = quantizer(latent_BFL[2:3], torch.tensor([3]))
    assert torch.equal(last.codes_BQT[0, 2], item)


def test_residuals_are_what_was_looked_up(quantizer: ResidualVectorQuantizer, latent_BFL: Tensor) -> None:
    output = quantizer(latent_BFL)
    assert not output.residuals_QND.requires_grad
    left_NL = latent_BFL.flatten(0, 1)
    for level in range(3):
        vectors_ND = quantizer.project_in[level](left_NL)
        torch.testing.assert_close(output.residuals_QND[level], vectors_ND.detach(), atol=1e-5, rtol=0)
        codes_N = output.codes_BQT[:, level].flatten()
        left_NL = left_NL - quantizer.project_out[level](quantizer.codebooks_QKD[level, codes_N])


def test_mean_over_equal_shards_is_the_joined_batch(
    quantizer: ResidualVectorQuantizer, latent_BFL: Tensor
) -> None:
    depth_B = torch.tensor([1, 1, 2, 3, 3, 3])
    joined = quantizer(latent_BFL, depth_B)
    shards = [quantizer(latent_BFL[half], depth_B[half]) for half in (slice(0, 3), slice(3, 6))]
    for name in ("commitment_loss", "codebook_loss"):
        mean = sum(getattr(shard, name) for shard in shards) / 2
        torch.testing.assert_close(mean, getattr(joined, name))
    counts = sum(quantizer.counts(shard.codes_BQT, shard.used_QN) for shard in shards)
    assert torch.equal(counts, quantizer.counts(joined.codes_BQT, joined.used_QN))


def test_residuals_get_shorter_from_level_to_level_at_the_start(config: VQVAEConfig) -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(config)
    latents_NL = torch.randn(2000, 16, generator=seeded())
    quantizer.initialise(latents_NL, seeded())
    lengths = [latents_NL.norm()]
    for depth in (1, 2, 3):
        codes_BQT = quantizer(latents_NL[None], levels=depth).codes_BQT
        lengths.append((latents_NL - quantizer.decode(codes_BQT)[0]).norm())
    assert all(later < 0.95 * earlier for earlier, later in itertools.pairwise(lengths))


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_initialise_uses_all_codes_and_repeats(config: VQVAEConfig, learning: str) -> None:
    config = dataclasses.replace(config, codebook_learning=learning)
    latents_NL = torch.randn(1500, 16, generator=seeded())
    books = []
    for _ in range(2):
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(config)
        quantizer.initialise(latents_NL, seeded(5))
        books.append(quantizer.codebooks_QKD.detach().clone())
    assert torch.equal(books[0], books[1])
    output = quantizer(latents_NL[None])
    counts_QK = quantizer.counts(output.codes_BQT, output.used_QN)
    assert (counts_QK > 0).all()


def test_ema_update_is_the_mean_of_the_vectors(config: VQVAEConfig, latent_BFL: Tensor) -> None:
    quantizer = with_ema(config, codebook_decay=0.5)
    before_QKD = quantizer.codebooks_QKD.detach().clone()
    assert not quantizer.codebooks_QKD.requires_grad
    output = quantizer(latent_BFL, torch.tensor([3, 3, 3, 3, 1, 1]))
    assert output.codebook_loss == 0
    sums_QKD = quantizer.ema_statistics(output)
    quantizer.ema_update(quantizer.counts(output.codes_BQT, output.used_QN), sums_QKD)
    level = 1
    codes_N, used_N = output.codes_BQT[:, level].flatten(), output.used_QN[level]
    for code in range(16):
        mine = output.residuals_QND[level][(codes_N == code) & used_N]
        expected = (before_QKD[level, code] + mine.sum(0)) / (1 + len(mine))
        torch.testing.assert_close(quantizer.codebooks_QKD[level, code], expected, atol=1e-5, rtol=1e-5)


def test_ema_rows_without_use_stay_where_they_are(config: VQVAEConfig) -> None:
    quantizer = with_ema(config, codebook_decay=0.5)
    before_QKD = quantizer.codebooks_QKD.detach().clone()
    for _ in range(200):
        quantizer.ema_update(torch.zeros(3, 16), torch.zeros(3, 16, 4))
    torch.testing.assert_close(quantizer.codebooks_QKD, before_QKD)


def test_dead_mask_is_a_share_of_uniform_use(quantizer: ResidualVectorQuantizer) -> None:
    counts_QK = torch.full((3, 16), 100.0)
    counts_QK[0, :2] = torch.tensor([8.0, 9.0])
    counts_QK[2] = 0.0
    dead_QK = quantizer.dead_mask(counts_QK)
    assert dead_QK[0].nonzero().flatten().tolist() == [0]
    assert not dead_QK[1:].any()


def test_reseed_is_equal_on_every_rank(config: VQVAEConfig, latent_BFL: Tensor) -> None:
    dead_QK = torch.rand(3, 16, generator=seeded(2)) < 0.5
    ranks = []
    for _ in range(2):
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(config)
        before_QKD = quantizer.codebooks_QKD.detach().clone()
        candidates_QND = quantizer(latent_BFL).residuals_QND
        replaced_QK = quantizer.reseed(dead_QK, candidates_QND, seeded(7))
        assert torch.equal(replaced_QK, dead_QK)
        assert torch.equal(quantizer.codebooks_QKD[~dead_QK], before_QKD[~dead_QK])
        for level in range(3):
            revived = quantizer.codebooks_QKD[level, dead_QK[level]]
            distance = torch.cdist(
                revived, candidates_QND[level], compute_mode="donot_use_mm_for_euclid_dist"
            )
            assert distance.min(dim=1).values.max() == 0
        ranks.append(quantizer.codebooks_QKD.detach().clone())
    assert torch.equal(ranks[0], ranks[1])


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_ninety_percent_dead_codes_come_back(learning: str) -> None:
    config = VQVAEConfig(
        codebook_size=64,
        codebook_dim=8,
        num_quantizers=2,
        latent_dim=16,
        codebook_learning=learning,
        codebook_decay=0.99,
    )
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(config)
    centres_KL = torch.randn(200, 16, generator=seeded(1))
    data = seeded(2)

    def batch() -> Tensor:
        picks = torch.randint(0, 200, (1, 1024), generator=data)
        return centres_KL[picks] + 0.05 * torch.randn(1, 1024, 16, generator=data)

    quantizer.initialise(batch()[0], seeded(3))
    with torch.no_grad():  # all but six rows collapse into one that nothing is nearest to
        quantizer.codebooks_QKD[:, 6:] = quantizer.codebooks_QKD[:, :1]
        if learning == "ema":
            quantizer.ema_sums_QKD.copy_(quantizer.codebooks_QKD)
    # in_proj and out_proj follow too, as in training
    optimizer = torch.optim.Adam([p for p in quantizer.parameters() if p.requires_grad], lr=1e-3)
    generator = seeded(4)
    counts_QK = torch.zeros(2, 64)
    start = quantizer(batch())
    used = (quantizer.counts(start.codes_BQT, start.used_QN) > 0).float().mean(1)
    assert used.max() < 0.1
    for step in range(1, 41):
        output = quantizer(latents := batch())
        counts = quantizer.counts(output.codes_BQT, output.used_QN)
        loss = (output.latent_BFL - latents).square().mean() + output.codebook_loss
        optimizer.zero_grad()
        (loss + 0.25 * output.commitment_loss).backward()
        optimizer.step()
        if learning == "ema":
            quantizer.ema_update(counts, quantizer.ema_statistics(output))
        counts_QK += counts
        if step % 10 == 0 and step <= 30:
            dead_QK = quantizer.dead_mask(counts_QK)
            quantizer.reseed(dead_QK, output.residuals_QND, generator)
            placed = quantizer.codebooks_QKD.detach()[dead_QK].clone()
            if learning == "ema":
                nothing = torch.zeros(2, 64)
                quantizer.ema_update(nothing, torch.zeros(2, 64, 8))
                torch.testing.assert_close(quantizer.codebooks_QKD.detach()[dead_QK], placed)
            counts_QK.zero_()
            if step == 10:
                first_QK, first = dead_QK, placed
                assert first_QK.float().mean() > 0.8
        if step == 11:
            moved = (quantizer.codebooks_QKD.detach()[first_QK] - first).norm(dim=1)
            assert (moved < 0.25 * first.norm(dim=1)).float().mean() > 0.95
    end = quantizer(torch.cat([batch() for _ in range(4)], dim=1))
    utilization = (quantizer.counts(end.codes_BQT, end.used_QN) > 0).float().mean(1)
    assert utilization.min() > 0.9


def test_float32_under_autocast(quantizer: ResidualVectorQuantizer, latent_BFL: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(latent_BFL)
    assert output.latent_BFL.dtype == output.commitment_loss.dtype == torch.float32
    assert torch.equal(output.codes_BQT, quantizer(latent_BFL).codes_BQT)


def test_wider_code_space_than_latent(config: VQVAEConfig) -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(dataclasses.replace(config, codebook_dim=32))
    inward, outward = quantizer.project_in[1].weight, quantizer.project_out[1].weight
    torch.testing.assert_close(outward @ inward, torch.eye(16), atol=1e-5, rtol=0)
