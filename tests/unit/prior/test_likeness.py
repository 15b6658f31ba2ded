"""Distances of codes whose latents are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_ray.prior.likeness import CodeLikeness

RATE = 8.0  # windows of 12 frames
VECTORS_QKL = torch.cat([torch.eye(8)[None] * 4, torch.eye(8).flip(0)[None]])


def walks(seed: int, *, count: int = 6, frames: int = 400, stay: float = 0.8) -> list[Tensor]:
    """Codes [2, T] that stay as they are with chance `stay` and else are any."""
    generator = torch.Generator().manual_seed(seed)
    new_NQT = torch.randint(8, (count, 2, frames), generator=generator)
    stays_NQT = torch.rand(count, 2, frames, generator=generator) < stay
    for step in range(1, frames):
        new_NQT[..., step] = torch.where(stays_NQT[..., step], new_NQT[..., step - 1], new_NQT[..., step])
    return list(new_NQT)


@pytest.fixture(scope="module")
def likeness() -> CodeLikeness:
    return CodeLikeness(walks(0), VECTORS_QKL, RATE)


def test_the_training_codes_are_at_0_and_others_of_their_kind_near(likeness: CodeLikeness) -> None:
    assert likeness.distance(walks(0)) == pytest.approx(0.0, abs=1e-6)
    assert likeness.distance(walks(1)) < 0.03


def test_what_goes_otherwise_is_farther_the_more_it_does(likeness: CodeLikeness) -> None:
    slower = [likeness.distance(walks(1, stay=stay)) for stay in (0.8, 0.85, 0.9, 0.97)]
    faster = [likeness.distance(walks(1, stay=stay)) for stay in (0.8, 0.7, 0.5, 0.0)]
    assert slower == sorted(slower)
    assert faster == sorted(faster)
    assert min(slower[-1], faster[-1]) > 0.5


def test_one_sound_all_the_time_is_far(likeness: CodeLikeness) -> None:
    assert likeness.distance([torch.full((2, 400), 3)]) > 1.0


def test_the_same_codes_backwards_are_as_near(likeness: CodeLikeness) -> None:
    backwards = [codes_QT.flip(1) for codes_QT in walks(0)]
    assert likeness.distance(backwards) < 0.01


def test_short_recordings_are_joined() -> None:
    whole_QT = walks(0, count=1)[0]
    parts = list(whole_QT.split(5, dim=1))
    assert CodeLikeness(parts, VECTORS_QKL, RATE).distance([whole_QT]) == pytest.approx(0.0, abs=1e-6)


def test_latents_are_turned_without_a_change() -> None:
    vectors_QKL = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(6))
    turn_LL = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(4))).Q
    plain = CodeLikeness(walks(0), vectors_QKL, RATE).distance(walks(1, stay=0.5))
    turned = CodeLikeness(walks(0), vectors_QKL @ turn_LL, RATE).distance(walks(1, stay=0.5))
    assert turned == pytest.approx(plain, rel=1e-3)


def test_less_than_a_window_can_be_told_too(likeness: CodeLikeness) -> None:
    assert likeness.distance([torch.zeros(2, 1, dtype=torch.int64)]) > 0.0
    assert CodeLikeness([torch.zeros(2, 3, dtype=torch.int64)], VECTORS_QKL, RATE).distance(walks(0)) > 0.0
