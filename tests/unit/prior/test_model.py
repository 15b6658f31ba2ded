from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from distill_ray.prior import CodePrior, PriorConfig, bits_per_second, perplexity

MakePrior = Callable[..., CodePrior]
PATTERNS = ("delay", "flatten")


def random_codes(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(16, (batch, 3, frames), generator=torch.Generator().manual_seed(seed))


def nats_by_hand(prior: CodePrior, codes_QT: torch.Tensor) -> torch.Tensor:
    """nats_QT, one code at a time, through the pattern's definition and the sampler's own heads."""
    tokens_BLS = prior.tokens(codes_QT[None])
    first_BL1 = prior.first_tokens(1, None, codes_QT.device)
    inputs_BLS = torch.cat((first_BL1, tokens_BLS[:, :, :-1]), dim=2)
    hidden_BSE = prior.hidden(inputs_BLS)
    nats_QT = torch.zeros(codes_QT.shape)
    for s, step in enumerate(prior.pattern.coordinates(codes_QT.shape[1])):
        logits_LK = prior.step_logits(hidden_BSE[:, s], s)[0]
        for t, q in step:
            logits_K = logits_LK[0 if prior.is_flat else q]
            nats_QT[q, t] = functional.cross_entropy(logits_K, codes_QT[q, t])
    return nats_QT


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("frames", [1, 2, 21])
def test_loss_is_the_mean_over_every_code(make_prior: MakePrior, pattern: str, frames: int) -> None:
    prior = make_prior(pattern=pattern)
    codes_BQT = random_codes(2, frames)
    nats_BQT = torch.stack([nats_by_hand(prior, codes_QT) for codes_QT in codes_BQT])
    output = prior(codes_BQT.to(torch.int16))
    assert nats_BQT.std() > 0.3
    torch.testing.assert_close(output.loss, nats_BQT.mean())
    torch.testing.assert_close(output.loss_Q, nats_BQT.mean(dim=(0, 2)))
    assert output.codes_Q.tolist() == [2 * frames] * 3


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_code_depends_on_earlier_steps_only(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern)
    codes_QT = random_codes(1, 12)[0]
    before = nats_by_hand(prior, codes_QT)
    t, q = 5, 1
    changed = codes_QT.clone()
    changed[q, t] = (changed[q, t] + 1) % 16
    moved = (nats_by_hand(prior, changed) - before).abs() > 1e-5
    step_QT = prior.pattern.step_index(12)
    assert not moved[step_QT < step_QT[q, t]].any()
    same_step = (step_QT == step_QT[q, t]).nonzero().tolist()
    assert [place for place in same_step if moved[tuple(place)]] == [[q, t]]
    assert moved[step_QT > step_QT[q, t]].any()


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_heard_is_the_past_and_not_what_is_learnt(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern)
    codes_BQT, heard_BQT = random_codes(2, 12), random_codes(2, 12).flip(0)
    nats_QBT = -prior.logits(heard_BQT).log_softmax(dim=-1).gather(-1, codes_BQT.transpose(0, 1)[..., None])
    output = prior(codes_BQT, heard_BQT=heard_BQT)
    torch.testing.assert_close(output.loss, nats_QBT.mean())
    assert (output.loss - prior(codes_BQT).loss).abs() > 0.01
    lengths_B = torch.tensor([12, 7])
    padded_BQT = heard_BQT.clone()
    padded_BQT[1, :, 7:] = 0
    torch.testing.assert_close(
        prior(codes_BQT, heard_BQT=padded_BQT, lengths_B=lengths_B).loss,
        prior(codes_BQT, heard_BQT=heard_BQT, lengths_B=lengths_B).loss,
    )


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_padding_is_ignored(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern)
    codes_BQT = random_codes(3, 15)
    lengths_B = torch.tensor([15, 4, 1])
    output = prior(codes_BQT, lengths_B=lengths_B)
    other = codes_BQT.clone()
    other[1, :, 4:], other[2, :, 1:] = 3, 9
    assert torch.equal(prior(other, lengths_B=lengths_B).loss, output.loss)
    alone = [prior(codes_BQT[i : i + 1, :, :length]) for i, length in enumerate(lengths_B.tolist())]
    torch.testing.assert_close(output.loss, torch.stack([each.loss for each in alone]).mean())
    torch.testing.assert_close(output.nats_Q, torch.stack([each.nats_Q for each in alone]).sum(dim=0))
    assert output.codes_Q.tolist() == [20.0] * 3


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_starts_tell_beginnings_from_middles(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern)
    codes_BQT = random_codes(1, 9).expand(2, -1, -1)
    default = prior(codes_BQT).loss
    starts_B = torch.tensor([True, True])
    assert torch.equal(prior(codes_BQT, starts_B=starts_B).loss, default)
    mixed = prior(codes_BQT, starts_B=torch.tensor([True, False])).loss
    middle = prior(codes_BQT, starts_B=~starts_B).loss
    assert abs(middle - default) > 1e-3
    torch.testing.assert_close(mixed, (default + middle) / 2)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_mean_of_shards_is_the_joined_batch(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern).double()
    codes_BQT = random_codes(4, 11)
    lengths_B = torch.tensor([11, 3, 7, 1])
    starts_B = torch.tensor([True, False, True, False])
    whole = prior(codes_BQT, lengths_B=lengths_B, starts_B=starts_B).loss
    wanted = torch.autograd.grad(whole, list(prior.parameters()))
    shards = [slice(0, 2), slice(2, 4)]
    losses = [
        prior(codes_BQT[part], lengths_B=lengths_B[part], starts_B=starts_B[part]).loss for part in shards
    ]
    grads = [torch.autograd.grad(loss, list(prior.parameters())) for loss in losses]
    torch.testing.assert_close(sum(losses) / 2, whole)
    for gradient, first, second in zip(wanted, *grads, strict=True):
        torch.testing.assert_close((first + second) / 2, gradient)


def test_every_parameter_learns(make_prior: MakePrior) -> None:
    for pattern in PATTERNS:
        prior = make_prior(pattern=pattern)
        prior(random_codes(2, 6)).loss.backward()
        for name, weight in prior.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.abs().sum() > 0, name


def test_bf16_autocast_stays_close(make_prior: MakePrior) -> None:
    prior = make_prior()
    codes_BQT = random_codes(2, 30)
    with torch.autocast("cpu", torch.bfloat16):
        output = prior(codes_BQT)
    assert output.loss.dtype == torch.float32
    assert abs(output.loss - prior(codes_BQT).loss) < 0.05


def test_embeddings_from_codebooks_keep_their_geometry(make_prior: MakePrior) -> None:
    prior = make_prior(hidden_size=256)
    vectors_QKL = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(2)) + 5.0
    special = prior.embedding.weight.view(3, 18, 256)[:, 16:].clone()
    prior.init_from_vectors(vectors_QKL, torch.Generator().manual_seed(0))
    weight_QRE = prior.embedding.weight.view(3, 18, 256)
    assert torch.equal(weight_QRE[:, 16:], special)
    for codebook_KD, rows_KE in zip(vectors_QKL, weight_QRE[:, :16].detach(), strict=True):
        assert rows_KE.std().item() == pytest.approx(0.02, rel=1e-4)
        pair = torch.stack((torch.pdist(codebook_KD), torch.pdist(rows_KE)))
        assert torch.corrcoef(pair)[0, 1] > 0.9
    assert torch.equal(prior.heads_QKE, weight_QRE[:, :16])
    again = make_prior(hidden_size=256)
    again.init_from_vectors(vectors_QKL, torch.Generator().manual_seed(0))
    assert torch.equal(again.embedding.weight, prior.embedding.weight)


def test_an_untrained_prior_hesitates_between_all_codes() -> None:
    torch.manual_seed(0)
    prior = CodePrior(PriorConfig(codebook_size=64, num_quantizers=2, hidden_size=64, num_layers=2))
    codes_BQT = torch.randint(64, (4, 2, 50))
    assert prior(codes_BQT).loss.item() == pytest.approx(math.log(64), abs=0.1)


def test_measures() -> None:
    assert perplexity(math.log(32.0)) == pytest.approx(32.0)
    assert bits_per_second(math.log(256.0), 86.0, 4) == pytest.approx(8 * 86 * 4)
    assert perplexity(1e9) == pytest.approx(math.exp(700.0))


def conditioned(make_prior: MakePrior, **changes: Any) -> CodePrior:
    prior = make_prior(controls=2, labels=3, **changes)
    torch.manual_seed(3)
    assert prior.conditions is not None
    torch.nn.init.normal_(prior.conditions.weight[1:].detach(), std=2.0)
    return prior


@pytest.mark.parametrize("pattern", PATTERNS)
def test_conditions_act_from_the_frames_they_stand_at(make_prior: MakePrior, pattern: str) -> None:
    prior = conditioned(make_prior, pattern=pattern)
    nothing_BAT = torch.zeros(2, 3, 10, dtype=torch.int16)
    late_BAT = nothing_BAT.clone()
    late_BAT[:, 1, 9] = 5
    codes_BQT = random_codes(2, 10)
    plain, late = prior(codes_BQT), prior(codes_BQT, conditions_BAT=late_BAT)
    assert torch.equal(prior(codes_BQT, conditions_BAT=nothing_BAT).nats_Q, plain.nats_Q)
    # Of level 0 the last frame alone is predicted with it, so the first nine cost what they cost.
    nine_BQT = codes_BQT[:, :, :9]
    with_lengths = prior(codes_BQT, conditions_BAT=late_BAT, lengths_B=torch.tensor([9, 9]))
    assert torch.allclose(with_lengths.nats_Q[0], prior(nine_BQT).nats_Q[0])
    assert not torch.allclose(late.nats_Q[0], plain.nats_Q[0])
    with pytest.raises(AssertionError, match="learnt no conditions"):
        make_prior().condition(nothing_BAT)


def masks(rows: int, frames: int) -> torch.Tensor:
    masked_BQT = torch.zeros(rows, 3, frames, dtype=torch.bool)
    masked_BQT[:, 1, 2:5] = True
    masked_BQT[:, 2, 2:7] = True
    return masked_BQT


@torch.no_grad()
def test_masked_codes_are_told_from_both_sides_and_not_looked_at(make_prior: MakePrior) -> None:
    prior = make_prior(masked_share=0.25)
    codes_BQT, masked_BQT = random_codes(1, 10), masks(1, 10)
    hidden_BTE = prior.filled(codes_BQT, masked_BQT)
    assert torch.equal(prior.filled(torch.where(masked_BQT, 0, codes_BQT), masked_BQT), hidden_BTE)
    changed_BQT = codes_BQT.clone()
    changed_BQT[0, 0, 9] = (changed_BQT[0, 0, 9] + 1) % 16
    assert not torch.allclose(prior.filled(changed_BQT, masked_BQT)[0, 0], hidden_BTE[0, 0])
    logits_TK = hidden_BTE[0, 2:5] @ prior.heads_QKE[1].T
    nats = functional.cross_entropy(logits_TK, codes_BQT[0, 1, 2:5])
    torch.testing.assert_close(prior.masked_nats(codes_BQT, masked_BQT), nats[None])


@torch.no_grad()
def test_the_last_windows_are_filled_in_and_count_as_windows_do(make_prior: MakePrior) -> None:
    prior = make_prior(masked_share=0.25)
    codes_BQT, masked_MQT = random_codes(4, 10), masks(1, 10)
    lengths_B = torch.tensor([10, 10, 6, 8])
    joined = prior(codes_BQT, lengths_B=lengths_B, masked_MQT=masked_MQT)
    continued = prior(codes_BQT[:3], lengths_B=lengths_B[:3])
    masked_nats = prior.masked_nats(codes_BQT[3:], masked_MQT, lengths_B[3:])
    torch.testing.assert_close(joined.loss, (3 * continued.loss + masked_nats.sum()) / 4)
    assert torch.equal(joined.nats_Q, continued.nats_Q)
    assert joined.codes_Q.tolist() == [26.0] * 3


def test_a_prior_that_learns_to_fill_starts_as_one_that_does_not(make_prior: MakePrior) -> None:
    with_masks, without = make_prior(masked_share=0.25).state_dict(), make_prior().state_dict()
    assert set(with_masks) - set(without) == {"masks.weight"}
    assert all(torch.equal(with_masks[name], without[name]) for name in without)
