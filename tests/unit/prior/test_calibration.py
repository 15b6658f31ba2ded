from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from distill_ray.prior import CodePrior, sample_codes
from distill_ray.prior.calibration import FIRST_LEVEL, LAST_LEVEL, calibrate
from distill_ray.prior.likeness import CodeLikeness

MakePrior = Callable[..., CodePrior]
PATTERNS = ("delay", "flatten")
FRAME_RATE = 8.0
VECTORS_QKL = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_logits_are_those_of_the_loss(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern)
    codes_BQT = torch.randint(16, (2, 3, 11), generator=torch.Generator().manual_seed(0))
    starts_B = torch.tensor([True, False])
    logits_QBTK = prior.logits(codes_BQT, starts_B=starts_B)
    for level in range(3):
        nats = functional.cross_entropy(logits_QBTK[level].flatten(0, 1), codes_BQT[:, level].flatten())
        assert float(nats.detach()) == pytest.approx(
            float(prior(codes_BQT, starts_B=starts_B).loss_Q[level]), rel=1e-4
        )


class Valley:
    """A likeness whose distance goes by the temperatures alone: least at `first` and `last`, flat `wide`."""

    def __init__(self, prior: CodePrior, *, first: float, last: float, wide: float) -> None:
        self.prior, self.first, self.last, self.wide = prior, first, last, wide

    def distance(self, codes_BQT: torch.Tensor) -> float:
        assert codes_BQT.shape[1:] == (3, 3 * self.prior.config.training_frames)
        first, _, last = self.prior.temperature_Q.tolist()
        beyond = max(0.0, abs(first - self.first) - self.wide)
        return 0.1 + beyond + 0.01 * abs(last / first - self.last)


@pytest.mark.parametrize(
    ("first", "last", "wide", "found"), [(0.8, 1.0, 0.01, 0.8), (0.9, 1.6, 0.01, 0.9), (0.8, 1.25, 0.11, 0.9)]
)
def test_the_hottest_of_those_that_are_as_good_is_taken_then_the_best_slope(
    make_prior: MakePrior, first: float, last: float, wide: float, found: float
) -> None:
    prior = make_prior()
    valley: Any = Valley(prior, first=first, last=last, wide=wide)
    calibration = calibrate(prior, valley, seed=1)
    wanted = [found, found * last**0.5, found * last]
    assert calibration.temperatures == pytest.approx(wanted)
    assert prior.temperature_Q.tolist() == pytest.approx(wanted)
    assert calibration.distance == pytest.approx(0.1)


def test_the_same_seed_finds_the_same(make_prior: MakePrior) -> None:
    prior = make_prior(context_frames=48)
    train_BQT = sample_codes(prior, frames=200, batch=16, generator=torch.Generator().manual_seed(3))
    likeness = CodeLikeness(list(train_BQT), VECTORS_QKL, FRAME_RATE)
    found = calibrate(prior, likeness, seed=1)
    assert found.distance > 0.0
    assert calibrate(prior, likeness, seed=1) == found


def test_temperature_1_is_among_those_tried_and_none_at_which_music_stays_in_drones() -> None:
    assert max(FIRST_LEVEL) == 1.0
    assert min(FIRST_LEVEL) == 0.8
    assert 1.0 in LAST_LEVEL


def test_out_of_time_one_temperature_is_tried_and_that_is_told(make_prior: MakePrior) -> None:
    prior = make_prior()
    valley: Any = Valley(prior, first=0.9, last=1.0, wide=0.01)
    found = calibrate(prior, valley, seed=1, ends_at=time.monotonic())
    assert found.cut_short
    assert found.temperatures[0] == pytest.approx(FIRST_LEVEL[0])
    assert not calibrate(prior, valley, seed=1).cut_short
