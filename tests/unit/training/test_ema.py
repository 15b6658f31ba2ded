from __future__ import annotations

import pytest
import torch
from torch import nn

from distill_ray.training.ema import WeightAverage


def test_the_average_follows_with_a_growing_decay() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average = WeightAverage(module, decay=0.5)
    with torch.no_grad():
        module.weight.fill_(1.0)
    expected = 0.0
    for step in range(20):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = expected * decay + (1 - decay)
        average.update(step)
        assert float(average.module.weight) == pytest.approx(expected, rel=1e-6)


def test_buffers_are_copied_and_the_copy_takes_no_gradient() -> None:
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, decay=0.9)
    module.running_mean.fill_(3.0)
    average.update(0)
    assert torch.equal(average.module.running_mean, torch.full((2,), 3.0))
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert not average.module.training
