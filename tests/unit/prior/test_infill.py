from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill_ray.config.generation import SamplingConfig
from distill_ray.errors import CodeShapeError, UsageError
from distill_ray.prior import CodePrior
from distill_ray.prior.infill import infill, pieces, redraw

MakePrior = Callable[..., CodePrior]
WAYS = [infill, redraw]


def codes_and_gap(frames: int, rows: int = 2) -> tuple[Tensor, Tensor]:
    codes_BQT = torch.randint(16, (rows, 3, frames), generator=torch.Generator().manual_seed(1))
    masked_QT = torch.zeros(3, frames, dtype=torch.bool)
    masked_QT[:, frames // 3 : frames // 2] = True
    masked_QT[2, -3:] = True
    return codes_BQT, masked_QT


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pattern", ["delay", "flatten"])
@pytest.mark.parametrize("frames", [6, 12, 40])
def test_kept_codes_stay_and_masked_ones_are_drawn(
    make_prior: MakePrior, way: Callable[..., Tensor], pattern: str, frames: int
) -> None:
    prior = make_prior(pattern=pattern, masked_share=0.3)
    codes_BQT, masked_QT = codes_and_gap(frames)
    filled_BQT = way(prior, codes_BQT, masked_QT, generator=seeded(0))
    assert torch.equal(filled_BQT[:, ~masked_QT], codes_BQT[:, ~masked_QT])
    assert (filled_BQT[:, masked_QT] != codes_BQT[:, masked_QT]).float().mean() > 0.5
    # Whatever the masked codes were: they are not looked at.
    other_BQT = torch.where(masked_QT, 15 - codes_BQT, codes_BQT)
    assert torch.equal(way(prior, other_BQT, masked_QT, generator=seeded(0)), filled_BQT)


@pytest.mark.parametrize("way", WAYS)
def test_draws_depend_on_seed_and_row_alone(make_prior: MakePrior, way: Callable[..., Tensor]) -> None:
    prior = make_prior(masked_share=0.3)
    codes_BQT, masked_QT = codes_and_gap(20, rows=1)
    many_BQT = way(prior, codes_BQT.expand(3, -1, -1), masked_QT, generator=seeded(4))
    one_BQT = way(prior, codes_BQT, masked_QT, generator=seeded(4))
    assert torch.equal(many_BQT[:1], one_BQT)
    assert not torch.equal(many_BQT[0], many_BQT[1])
    assert not torch.equal(way(prior, codes_BQT, masked_QT, generator=seeded(5)), one_BQT)


def test_what_comes_after_a_gap_is_looked_at(make_prior: MakePrior) -> None:
    prior = make_prior(masked_share=0.3)
    codes_BQT, masked_QT = codes_and_gap(12, rows=8)
    greedy = SamplingConfig(temperature=0.0)
    filled_BQT = infill(prior, codes_BQT, masked_QT, sampling=greedy)
    changed_BQT = codes_BQT.clone()
    changed_BQT[:, :2, 8:] = 15 - changed_BQT[:, :2, 8:]
    again_BQT = infill(prior, changed_BQT, masked_QT, sampling=greedy)
    assert not torch.equal(again_BQT[:, :, 4:6], filled_BQT[:, :, 4:6])


def test_a_trained_prior_fills_a_gap_from_both_sides(make_prior: MakePrior) -> None:
    # Ramps: a gap is known exactly from its two sides, and level 1 is level 0 turned round.
    start_B = torch.arange(64)
    ramp_BT = (start_B[:, None] // 4 + (1 + start_B[:, None] % 3) * torch.arange(12)) % 16
    codes_BQT = torch.stack((ramp_BT, 15 - ramp_BT), dim=1)
    prior = make_prior(num_quantizers=2, masked_share=0.5, hidden_size=48)
    generator = seeded(0)
    masked_QT = torch.zeros(2, 12, dtype=torch.bool)
    masked_QT[:, 4:8] = True
    optimizer = torch.optim.AdamW(prior.parameters(), lr=2e-3)
    prior.train()
    for step in range(250):
        rows = torch.randint(64, (32,), generator=generator)
        hidden_BQT = masked_QT.expand(32, -1, -1).clone()
        if step % 2:
            hidden_BQT[:, 0] = False
        else:
            hidden_BQT[:, 0] &= torch.rand(32, 12, generator=generator) < 0.7
            hidden_BQT[:, 0, 5] = True
        optimizer.zero_grad()
        loss = prior.masked_nats(codes_BQT[rows], hidden_BQT).mean()
        loss.backward()
        optimizer.step()
    filled_BQT = infill(prior, codes_BQT, masked_QT, generator=seeded(1))
    assert (filled_BQT == codes_BQT).float().mean() > 0.97


def test_steps_are_told_and_nothing_masked_changes_nothing(make_prior: MakePrior) -> None:
    prior = make_prior(masked_share=0.3)
    codes_BQT, masked_QT = codes_and_gap(20)
    told: list[tuple[int, int]] = []
    infill(prior, codes_BQT, masked_QT, on_step=lambda done, total: told.append((done, total)))
    assert told == [(done, len(told)) for done in range(1, len(told) + 1)]
    for way in WAYS:
        assert torch.equal(way(prior, codes_BQT, torch.zeros_like(masked_QT)), codes_BQT)


def test_pieces_hold_all_that_is_masked_and_see_a_window() -> None:
    masked_T = torch.zeros(100, dtype=torch.bool)
    masked_T[[3, 4, 40, *range(60, 90)]] = True
    found = list(pieces(masked_T, 24))
    held = torch.zeros(100, dtype=torch.bool)
    for piece in found:
        held[piece.start : piece.stop] = True
        assert piece.seen_stop - piece.seen_start == 24
        assert 0 <= piece.seen_start <= piece.start < piece.stop <= piece.seen_stop <= 100
        assert piece.stop - piece.start <= 12
    assert held[masked_T].all()
    assert [(piece.start, piece.stop) for piece in pieces(masked_T[:20], 24)] == [(0, 20)]


@pytest.mark.parametrize("way", WAYS)
def test_codes_of_another_codec_are_refused(make_prior: MakePrior, way: Callable[..., Tensor]) -> None:
    prior = make_prior(masked_share=0.3)
    codes_BQT, masked_QT = codes_and_gap(12)
    with pytest.raises(UsageError, match="span 0 to 99, outside the prior's 0 to 15"):
        way(prior, codes_BQT.clamp(max=15).index_fill(2, torch.tensor(0), 99).clamp(min=0), masked_QT)
    with pytest.raises(CodeShapeError, match="3 levels"):
        way(prior, codes_BQT[:, :2], masked_QT[:2])
    with pytest.raises(CodeShapeError, match="does not fit"):
        way(prior, codes_BQT, masked_QT[:, :5])


def test_a_prior_without_masks_cannot_fill(make_prior: MakePrior) -> None:
    with pytest.raises(UsageError, match="has not learnt to fill in"):
        infill(make_prior(), *codes_and_gap(12))
