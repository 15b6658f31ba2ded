from __future__ import annotations

import pytest
import torch

from distill_ray.errors import CodeShapeError, DistillError
from distill_ray.prior import code_pattern, flatten_codes, unflatten_codes
from distill_ray.prior.patterns import Coordinate

GRID = [
    (name, levels, frames)
    for name in ("delay", "flatten")
    for levels in (1, 2, 3, 8)
    for frames in (1, 2, 7, 12)
]


@pytest.mark.parametrize(("name", "levels", "frames"), GRID)
def test_pattern_invariants(name: str, levels: int, frames: int) -> None:
    pattern = code_pattern(name, levels)
    steps = pattern.coordinates(frames)
    length = frames + levels - 1 if name == "delay" else frames * levels
    assert len(steps) == pattern.steps(frames) == length
    place = {coordinate: s for s, step in enumerate(steps) for coordinate in step}
    assert sum(map(len, steps)) == frames * levels
    assert set(place) == {Coordinate(t, q) for t in range(frames) for q in range(levels)}
    for (t, q), s in place.items():
        assert s == pattern.step(t, q) == pattern.step_index(frames)[q, t]
        assert q == 0 or place[Coordinate(t, q - 1)] < s
        assert t == 0 or place[Coordinate(t - 1, q)] < s
    valid_QS = pattern.valid(frames)
    for s, step in enumerate(steps):
        assert valid_QS[:, s].nonzero().flatten().tolist() == [q for _, q in step]


@pytest.mark.parametrize(("name", "levels", "frames"), GRID)
def test_lay_out_and_collect(name: str, levels: int, frames: int) -> None:
    pattern = code_pattern(name, levels)
    codes_BQT = torch.arange(2 * levels * frames).view(2, levels, frames)
    tokens_BQS = pattern.lay_out(codes_BQT, -1)
    assert torch.equal(pattern.collect(tokens_BQS, frames), codes_BQT)
    assert torch.equal(tokens_BQS >= 0, pattern.valid(frames).expand(2, -1, -1))
    for s, step in enumerate(pattern.coordinates(frames)):
        for t, q in step:
            assert tokens_BQS[1, q, s] == codes_BQT[1, q, t]


def test_delay_by_hand() -> None:
    tokens_BQS = code_pattern("delay", 3).lay_out(torch.tensor([[[1, 2], [3, 4], [5, 6]]]), 9)
    assert tokens_BQS.tolist() == [[[1, 2, 9, 9], [9, 3, 4, 9], [9, 9, 5, 6]]]


@pytest.mark.parametrize(("levels", "frames"), [(1, 1), (1, 5), (4, 1), (3, 7)])
def test_flatten_round_trip(levels: int, frames: int) -> None:
    codes_BQT = torch.arange(2 * levels * frames).view(2, levels, frames)
    flat_BS = flatten_codes(codes_BQT)
    assert flat_BS[1].tolist() == [codes_BQT[1, q, t].item() for t in range(frames) for q in range(levels)]
    assert torch.equal(unflatten_codes(flat_BS, levels), codes_BQT)


def test_flatten_is_the_flatten_pattern() -> None:
    codes_BQT = torch.arange(12).view(1, 3, 4)
    tokens_BQS = code_pattern("flatten", 3).lay_out(codes_BQT, 0)
    assert torch.equal(tokens_BQS.sum(dim=1), flatten_codes(codes_BQT))


@pytest.mark.parametrize(("steps", "levels"), [(7, 3), (1, 2), (4, 0)])
def test_unflatten_refuses_broken_frames(steps: int, levels: int) -> None:
    with pytest.raises(CodeShapeError, match=f"flat sequence of {steps} codes") as caught:
        unflatten_codes(torch.zeros(1, steps, dtype=torch.int64), levels)
    assert isinstance(caught.value, DistillError)
    assert isinstance(caught.value, ValueError)
