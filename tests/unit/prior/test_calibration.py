from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from distill_ray.prior import CodePrior, SamplingConfig, sample_codes
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


@pytest.mark.parametrize(("first", "last"), [(0.6, 1.25), (0.9, 1.0), (0.7, 1.6)])
def test_the_temperatures_of_the_training_codes_are_found(
    make_prior: MakePrior, first: float, last: float
) -> None:
    """The training codes are drawn from the prior itself, at temperatures of the grid."""
    prior = make_prior(context_frames=48)
    with torch.no_grad():  # so that its distributions are uneven, and a temperature tells
        prior.heads_QKE.mul_(40.0)
    wanted = [first * last ** (level / 2) for level in range(3)]
    prior.temperature_Q.copy_(torch.tensor(wanted))
    train_BQT = sample_codes(
        prior, frames=200, batch=16, sampling=SamplingConfig(), generator=torch.Generator().manual_seed(3)
    )
    likeness = CodeLikeness(list(train_BQT), VECTORS_QKL, FRAME_RATE)
    found = calibrate(prior, likeness, seed=1)
    assert found.temperatures[0] == pytest.approx(first, abs=0.11)  # a step of the grid
    assert found.temperatures == tuple(prior.temperature_Q.tolist())
    assert found.distance < found.before
    assert calibrate(prior, likeness, seed=1) == found


def test_temperature_1_is_among_those_tried() -> None:
    assert 1.0 in FIRST_LEVEL
    assert 1.0 in LAST_LEVEL
