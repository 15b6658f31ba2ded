from __future__ import annotations

import math

import pytest
import torch

from distill_ray.config.prior import PriorConfig
from distill_ray.prior import CodePrior
from distill_ray.prior.gains import level_gains

K = 8


def test_a_prior_that_guesses_evenly_saves_what_the_histogram_wastes() -> None:
    """Heads of zeros cost log K nats a code: what an even level costs, and far too much of a constant."""
    prior = CodePrior(
        PriorConfig(
            codebook_size=K,
            num_quantizers=2,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            context_frames=32,
            codebook_dim=4,
        )
    )
    with torch.no_grad():
        prior.heads_QKE.zero_()
    even_T = torch.arange(K).repeat(64)
    codes_QT = torch.stack((even_T, torch.zeros_like(even_T))).to(torch.int16)
    even, constant = level_gains(prior, [codes_QT], [codes_QT[:, :200], codes_QT[:, 200:]])
    assert even == pytest.approx(0.0, abs=1e-3)
    known = -math.log((512 + 0.5) / (512 + 0.5 * K))
    assert constant == pytest.approx(1 - math.log(K) / known, rel=1e-3)
