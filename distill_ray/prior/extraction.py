"""Prompted extraction: does a prior give training recordings back when it is shown how they begin?

As Copet et al. 2023 (MusicGen, after Carlini et al. 2022) test it: the codes of a few seconds of training
audio are continued greedily, and what follows is compared with the recording. A continuation has come back
where all its codes are the recording's, or 80 % of those of its first levels. Held tones and silence come
back from held-out recordings too: the same share of held-out prompts stands beside it.

Legend: B prompts, Q RVQ levels, T code frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.config.generation import SamplingConfig
from distill_ray.prior.fixed_steps import graph_kept
from distill_ray.prior.memorization import COARSE_LEVELS
from distill_ray.prior.model import CodePrior
from distill_ray.prior.sampling import sample_codes

ALIKE = 0.8
PROMPTS = 32
SECONDS = 2.0
"""Of a continuation; the prompt is as long as half of what the prior looks back on."""
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Continuations:
    """How many of `prompts` came back: `exact` in all codes, `alike` in 80 % of the first levels or more."""

    prompts: int
    exact: int
    alike: int

    @property
    def share(self) -> float:
        """Of prompts that came back, exactly or nearly."""
        return self.alike / self.prompts


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Continuations of training and of held-out prompts; None where no recording is long enough."""

    training: Continuations | None
    held_out: Continuations | None

    @property
    def training_share(self) -> float | None:
        """`exact_continuations` of the reports."""
        return None if self.training is None else self.training.share

    @property
    def held_out_share(self) -> float | None:
        """`held_out_continuations` of the reports."""
        return None if self.held_out is None else self.held_out.share


def prompted_extraction(
    prior: CodePrior,
    training: Sequence[Tensor],
    held_out: Sequence[Tensor],
    *,
    frame_rate: float,
    prompts: int = PROMPTS,
) -> Extraction:
    """Continue `prompts` excerpts of each side, evenly over all its recordings (codes [Q, T])."""
    frames, prompt_frames = excerpt_frames(prior, frame_rate), _prompt_frames(prior)
    with graph_kept():
        return Extraction(
            training=_continue(prior, training, prompt_frames, frames - prompt_frames, prompts),
            held_out=_continue(prior, held_out, prompt_frames, frames - prompt_frames, prompts),
        )


def excerpt_frames(prior: CodePrior, frame_rate: float) -> int:
    """Frames of a prompt and its continuation."""
    return _prompt_frames(prior) + max(1, round(SECONDS * frame_rate))


def _prompt_frames(prior: CodePrior) -> int:
    return max(1, prior.config.context_frames // 2)


def _continue(
    prior: CodePrior, sequences: Sequence[Tensor], prompt_frames: int, new_frames: int, prompts: int
) -> Continuations | None:
    excerpts = _excerpts(sequences, prompt_frames + new_frames, prompts)
    if not excerpts:
        return None
    exact = alike = 0
    for begin in range(0, len(excerpts), _BATCH):
        codes_BQT = torch.stack(excerpts[begin : begin + _BATCH]).long()
        made_BQT = sample_codes(
            prior,
            frames=new_frames,
            batch=len(codes_BQT),
            prompt_BQT=codes_BQT[:, :, :prompt_frames],
            sampling=SamplingConfig(temperature=0.0),
        ).cpu()
        equal_BQT = made_BQT[:, :, prompt_frames:] == codes_BQT[:, :, prompt_frames:]
        exact += int(equal_BQT.flatten(1).all(1).sum())
        coarse_B = equal_BQT[:, :COARSE_LEVELS].float().flatten(1).mean(1)
        alike += int((coarse_B >= ALIKE).sum())
    return Continuations(prompts=len(excerpts), exact=exact, alike=alike)


def _excerpts(sequences: Sequence[Tensor], frames: int, count: int) -> list[Tensor]:
    """At most `count` excerpts [Q, frames], evenly over all places where one fits, none over another."""
    places = [
        (codes_QT, start)
        for codes_QT in sequences
        for start in range(0, codes_QT.shape[1] - frames + 1, frames)
    ]
    chosen = (
        [places[index * len(places) // count] for index in range(count)] if len(places) > count else places
    )
    return [codes_QT[:, start : start + frames] for codes_QT, start in chosen]
