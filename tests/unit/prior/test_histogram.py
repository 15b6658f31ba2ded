from __future__ import annotations

import math

import pytest
import torch

from distill_ray.prior.histogram import histogram_nats


def test_even_codes_cost_their_logarithm() -> None:
    codes_QT = torch.arange(8).repeat(2, 1000).to(torch.int16)
    assert histogram_nats([codes_QT], [codes_QT], 8) == pytest.approx(math.log(8))


def test_each_level_has_its_own_histogram() -> None:
    constant_T, even_T = torch.zeros(4000), torch.arange(4).repeat(1000)
    codes_QT = torch.stack((constant_T, even_T)).to(torch.int16)
    assert histogram_nats([codes_QT], [codes_QT], 4) == pytest.approx(math.log(4) / 2, rel=1e-2)


def test_a_code_that_never_came_has_a_cost() -> None:
    seen_QT, new_QT = torch.zeros(1, 99, dtype=torch.int16), torch.ones(1, 5, dtype=torch.int16)
    assert histogram_nats([seen_QT], [new_QT], 2) == pytest.approx(math.log(100 / 0.5))
