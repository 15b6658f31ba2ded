from __future__ import annotations

import math

import pytest
import torch

from distill_ray.prior.gains import level_gains

K = 8


def test_a_prior_that_guesses_evenly_saves_what_the_histogram_wastes() -> None:
    """log K nats a code are what an even level costs, and far too much for a constant."""
    even_T = torch.arange(K).repeat(64)
    codes_QT = torch.stack((even_T, torch.zeros_like(even_T))).to(torch.int16)
    held_out = [codes_QT[:, :200], codes_QT[:, 200:]]
    even, constant = level_gains((math.log(K), math.log(K)), [codes_QT], held_out, K)
    assert even == pytest.approx(0.0, abs=1e-3)
    known = -math.log((512 + 0.5) / (512 + 0.5 * K))
    assert constant == pytest.approx(1 - math.log(K) / known, rel=1e-3)
