"""Temperatures at which what a prior makes by itself goes most like the training recordings.

A prior that has seen little spreads its bets, and code upon code of its own leads it away from what
recordings do; one that has seen them often does not. So each trained prior has a temperature of its own at
which its sounds are best, coarse levels a lower one than fine ones, and `likeness.py` finds it without a
sound being made. Temperatures that make generated codes as uncertain as held-out ones are costly, as this
module set them until 2026-11-30, were too high on all corpora (docs/measurements/2026-11-30-likeness.md).

Legend: B sounds, Q RVQ levels, T code frames.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.config.generation import SamplingConfig
from distill_ray.prior.fixed_steps import graph_kept
from distill_ray.prior.likeness import CodeLikeness
from distill_ray.prior.model import CodePrior
from distill_ray.prior.sampling import sample_codes

FIRST_LEVEL = (0.8, 0.9, 1.0)
"""Temperatures of the first level that are tried, the likeliest first. At lower ones music stays in drones,
which windows of seconds do not tell: the judge had none of five priors nearer at 0.7 than at 0.8
(docs/measurements/2026-11-30-unvaried-decoders.md).
"""
AS_GOOD = 0.07
"""Beyond the least distance: as near as makes no difference. The hottest of these is taken: it is the one
that repeats itself least, which windows of seconds do not tell.
"""
LAST_LEVEL = (1.25, 1.0, 1.6)
"""How many times that of the first the last level's is; the levels between follow geometrically."""
_SOUNDS = {"cpu": 16}
_SOUNDS_ELSEWHERE = 64
_WINDOWS = 3
"""Training windows that are drawn, one after another: what leads astray does so after seconds."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperatures of the levels, how far from the training codes what is generated at them is, and
    whether there was no time to try all.
    """

    temperatures: tuple[float, ...]
    distance: float
    cut_short: bool = False


def calibrate(
    prior: CodePrior, likeness: CodeLikeness, *, seed: int, ends_at: float = math.inf
) -> Calibration:
    """Set `prior.temperature_Q` to the hottest of `FIRST_LEVEL` that is `AS_GOOD` as the best, with the first
    of `LAST_LEVEL`, then to the best of these.

    All are tried with the same random numbers, so that they differ by their temperatures alone. From
    `ends_at` on, by `time.monotonic`, no further one is tried.
    """
    levels = prior.config.num_quantizers

    def temperatures(first: float, last: float) -> Tensor:
        return torch.tensor([first * last ** (level / max(1, levels - 1)) for level in range(levels)])

    def distance(first: float, last: float) -> float:
        prior.temperature_Q.copy_(temperatures(first, last))
        return likeness.distance(_drawn(prior, seed))

    with graph_kept():
        by_first = {FIRST_LEVEL[0]: distance(FIRST_LEVEL[0], LAST_LEVEL[0])} | {
            first: distance(first, LAST_LEVEL[0]) for first in FIRST_LEVEL[1:] if time.monotonic() < ends_at
        }
        enough = AS_GOOD + min(by_first.values())
        first = max(first for first, found in by_first.items() if found <= enough)
        by_last = {LAST_LEVEL[0]: by_first[first]} | {
            last: distance(first, last) for last in LAST_LEVEL[1:] if time.monotonic() < ends_at
        }
    last = min(by_last, key=by_last.__getitem__)
    prior.temperature_Q.copy_(temperatures(first, last))
    return Calibration(
        temperatures=tuple(prior.temperature_Q.tolist()),
        distance=by_last[last],
        cut_short=len(by_first) + len(by_last) < len(FIRST_LEVEL) + len(LAST_LEVEL),
    )


def _drawn(prior: CodePrior, seed: int) -> Tensor:
    """codes_BQT as generation draws them."""
    return sample_codes(
        prior,
        frames=_WINDOWS * prior.config.training_frames,
        batch=_SOUNDS.get(prior.temperature_Q.device.type, _SOUNDS_ELSEWHERE),
        sampling=SamplingConfig(),
        generator=torch.Generator().manual_seed(seed),
    )
