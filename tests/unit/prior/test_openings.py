"""Moments of recordings after which sounds begin."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from distill_ray.config.generation import SamplingConfig
from distill_ray.config.prior import PriorConfig
from distill_ray.prior import CodePrior, sample_codes
from distill_ray.prior.openings import OPENING_FRAMES, openings, spread

CONFIG = PriorConfig(
    codebook_size=16,
    num_quantizers=2,
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    context_frames=32,
    openings=4,
)


def counting(frames: int, first: int = 0) -> Tensor:
    """Codes [2, T] that say their place."""
    return (torch.arange(first, first + frames) % 16).repeat(2, 1)


def prior(config: PriorConfig = CONFIG) -> CodePrior:
    """One whose codes go by what came before."""
    torch.manual_seed(0)
    model = CodePrior(config).eval()
    for weight in model.parameters():
        if weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def test_they_are_spread_evenly_over_all_recordings() -> None:
    found_NQT = openings([counting(8), counting(3), counting(12, first=100)], 6)
    assert found_NQT.dtype == torch.int32
    assert found_NQT.shape == (6, 2, OPENING_FRAMES)
    # One place in the first recording, none in the short one, five in the last.
    assert [int(first) for first in found_NQT[:, 0, 0]] == [0, 4, 5, 6, 7, 8]
    assert torch.equal(found_NQT[2, 1], (torch.arange(101, 109) % 16).int())


def test_more_than_there_are_places_come_again_and_short_recordings_go_round() -> None:
    assert torch.equal(openings([counting(8)], 3)[2, 0], torch.arange(8).int())
    assert openings([counting(3)], 1)[0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_sound_goes_on_from_an_opening_that_is_not_heard() -> None:
    model = prior()
    model.openings_NQT.copy_(openings([counting(21)], 4))
    drawn_BQT = sample_codes(model, frames=20, batch=6, generator=torch.Generator().manual_seed(3))
    assert drawn_BQT.shape == (6, 2, 20)
    seen = []
    for row in range(6):
        told = [
            sample_codes(
                model,
                frames=20,
                batch=6,
                prompt_BQT=opening_QT[None].long(),
                generator=torch.Generator().manual_seed(3),
            )[row, :, OPENING_FRAMES:]
            for opening_QT in model.openings_NQT
        ]
        same = [place for place, codes_QT in enumerate(told) if torch.equal(codes_QT, drawn_BQT[row])]
        assert len(same) == 1
        seen += same
    assert len(set(seen)) > 1


@pytest.mark.parametrize(
    "sampling",
    [SamplingConfig(start="beginning"), SamplingConfig(temperature=0.0)],
    ids=["beginning", "greedy"],
)
def test_a_beginning_and_the_likeliest_codes_need_none(sampling: SamplingConfig) -> None:
    drawn = []
    for shift in (0, 5):
        model = prior()
        model.openings_NQT.copy_(openings([counting(21, first=shift)], 4))
        drawn.append(
            sample_codes(model, frames=12, sampling=sampling, generator=torch.Generator().manual_seed(0))
        )
    assert torch.equal(*drawn)


def test_rows_begin_alike_however_many_there_are() -> None:
    model = prior()
    model.openings_NQT.copy_(openings([counting(21)], 4))
    few, many = (
        sample_codes(model, frames=10, batch=batch, generator=torch.Generator().manual_seed(1))
        for batch in (2, 5)
    )
    assert torch.equal(few, many[:2])


@pytest.mark.parametrize("rows", [1, 8, 48, 64, 100])
def test_sounds_are_spread_evenly_over_the_openings(rows: int) -> None:
    firsts = set()
    for seed in range(5):
        chosen_B = spread(16, rows, torch.Generator().manual_seed(seed))
        counts_N = chosen_B.bincount(minlength=16)
        assert len(counts_N) == 16
        assert rows / 16 - 2 <= counts_N.min()
        assert counts_N.max() <= rows / 16 + 2
        assert torch.equal(spread(16, rows + 9, torch.Generator().manual_seed(seed))[:rows], chosen_B)
        firsts.add(int(chosen_B[0]))
    assert len(firsts) > 2


def test_they_are_stored_with_the_weights_where_there_are_any() -> None:
    assert prior().state_dict()["openings_NQT"].shape == (4, 2, OPENING_FRAMES)
    assert "openings_NQT" not in prior(dataclasses.replace(CONFIG, openings=0)).state_dict()


def test_they_are_of_a_type_that_ranks_can_send_each_other() -> None:
    """Gloo, which CPUs use, and NCCL have no 16-bit integers; every buffer of a model in training is sent."""
    sent = (torch.float32, torch.int32, torch.int64)
    assert all(value.dtype in sent for value in prior().buffers())
