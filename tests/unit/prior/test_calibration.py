from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from distill_ray.prior import CodePrior
from distill_ray.prior.calibration import LEAST, MOST, calibrate

MakePrior = Callable[..., CodePrior]
PATTERNS = ("delay", "flatten")


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


@pytest.mark.parametrize("pattern", PATTERNS)
def test_generated_entropy_becomes_the_held_out_cost(make_prior: MakePrior, pattern: str) -> None:
    prior = make_prior(pattern=pattern, context_frames=48)
    usual = calibrate(prior, torch.full((3,), 1.5), generator=torch.Generator().manual_seed(1))
    start = torch.tensor([level.nats_before for level in usual])
    wanted = start + torch.tensor([0.15, 0.0, -0.15])
    found = calibrate(prior, wanted, generator=torch.Generator().manual_seed(2))
    assert [level.nats_after for level in found] == pytest.approx(wanted.tolist(), abs=0.06)
    assert found[0].temperature > 1.0 > found[2].temperature
    assert prior.temperature_Q.tolist() == pytest.approx([level.temperature for level in found])
    again = calibrate(prior, wanted, generator=torch.Generator().manual_seed(2))
    assert again == found


def test_temperatures_stay_in_bounds(make_prior: MakePrior) -> None:
    found = calibrate(
        make_prior(), torch.tensor([1e-9, 9.0, 9.0]), generator=torch.Generator().manual_seed(1)
    )
    assert [level.temperature for level in found] == pytest.approx([LEAST, MOST, MOST])
