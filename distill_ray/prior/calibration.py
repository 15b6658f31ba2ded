"""Temperatures that make a prior as uncertain in what it generates as it is about real audio.

A prior that has seen little is surer of its own sound than it has reason to be, or loses its way the further
it runs, on each level to another degree. Held-out audio says how many nats a code of a level really costs.
Where generated codes are drawn from distributions of another entropy, the temperature of their level is
changed until both are equal (as Mirostat does for words, Basu et al. 2021, but once and not while drawing).

Legend: B sounds, Q RVQ levels, T code frames, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.config.generation import SamplingConfig
from distill_ray.prior.fixed_steps import graph_kept
from distill_ray.prior.model import CodePrior
from distill_ray.prior.sampling import sample_codes

LEAST, MOST = 0.5, 2.0
"""Bounds of a temperature."""
_ROUNDS = 8
_SOUNDS = {"cpu": 8}
_SOUNDS_ELSEWHERE = 64
_MEASURED = 2
"""Times as many sounds tell the entropy before and after."""
_LARGEST_STEP = 0.3
_UNHEARD_SHARE = 0.2
"""Of a sound, from its beginning: it has to find its way first."""


@dataclass(frozen=True, kw_only=True)
class LevelTemperature:
    """What the logits of a level are divided by; nats a code of held-out audio, and of generated sound before
    (at temperature 1) and after.
    """

    temperature: float
    held_out_nats: float
    nats_before: float
    nats_after: float


def calibrate(
    prior: CodePrior, held_out_nats_Q: Tensor, *, generator: torch.Generator
) -> tuple[LevelTemperature, ...]:
    """Set `prior.temperature_Q` so that generated codes are as uncertain as held-out ones cost; says how.

    held_out_nats_Q: mean nats a code of each level. `generator` is a CPU one. Newton's method on the
    logarithms of the temperatures, whose slopes are the variances of the logits; each round draws new sound.
    What a level is fed with changes with the others, and sounds differ, so the steps become smaller
    (Robbins and Monro 1951).
    """
    with graph_kept():
        return _calibrated(prior, held_out_nats_Q.double().cpu(), generator)


def _calibrated(
    prior: CodePrior, wanted_Q: Tensor, generator: torch.Generator
) -> tuple[LevelTemperature, ...]:
    prior.temperature_Q.fill_(1.0)
    before_Q, slope_Q = _entropy(prior, generator, _sounds(prior) * _MEASURED)
    found_Q = before_Q
    for number in range(_ROUNDS):
        step_Q = (wanted_Q - found_Q) / slope_Q.clamp(min=1e-3) / (1 + number / 2)
        logarithm_Q = prior.temperature_Q.double().cpu().log() + step_Q.clamp(-_LARGEST_STEP, _LARGEST_STEP)
        prior.temperature_Q.copy_(logarithm_Q.exp().clamp(LEAST, MOST))
        found_Q, slope_Q = _entropy(prior, generator, _sounds(prior))
    found_Q, _ = _entropy(prior, generator, _sounds(prior) * _MEASURED)
    columns = (prior.temperature_Q, wanted_Q, before_Q, found_Q)
    return tuple(
        LevelTemperature(temperature=of, held_out_nats=held_out, nats_before=before, nats_after=after)
        for of, held_out, before, after in zip(*(column.tolist() for column in columns), strict=True)
    )


def _sounds(prior: CodePrior) -> int:
    return _SOUNDS.get(prior.temperature_Q.device.type, _SOUNDS_ELSEWHERE)


@torch.inference_mode()
def _entropy(prior: CodePrior, generator: torch.Generator, sounds: int) -> tuple[Tensor, Tensor]:
    """Mean nats of the distributions that codes of each level are drawn from, and how fast they rise with the
    logarithm of the level's temperature; float64 [Q] on the CPU.
    """
    device = prior.temperature_Q.device
    frames = prior.config.training_frames
    codes_BQT = sample_codes(
        prior,
        frames=frames,
        batch=sounds,
        sampling=SamplingConfig(),
        generator=generator,
    )
    first = round(_UNHEARD_SHARE * frames)
    starts_B = torch.zeros(len(codes_BQT), dtype=torch.bool, device=device)
    logits_QBTK = prior.logits(codes_BQT, starts_B=starts_B)[:, :, first:].float()
    logits_QBTK /= prior.temperature_Q[:, None, None, None]
    log_probs_QBTK = logits_QBTK.log_softmax(dim=-1)
    probs_QBTK = log_probs_QBTK.exp()
    nats_QBT = -(probs_QBTK * log_probs_QBTK).sum(-1)
    # Of p ∝ exp(l / T) the entropy rises by the variance of l / T, which is that of log p.
    slope_QBT = (probs_QBTK * (log_probs_QBTK + nats_QBT[..., None]).square()).sum(-1)
    return nats_QBT.double().mean((1, 2)).cpu(), slope_QBT.double().mean((1, 2)).cpu()
