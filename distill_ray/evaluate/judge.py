"""Judge sounds against the training audio that they are to be like.

`Reference.fit` measures the training and the held-out audio once and can be saved; `Reference.judge` then
scores any set of sounds in a second or two. `judge` does both. Of a corpus, `corpus_reference.py` makes
the reference and keeps it.

Legend: C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from distill_ray.evaluate.judgement import Judgement

Progress = Callable[[int, int, str], None]
"""Told (done, total, note)."""


class Sound(NamedTuple):
    """One sound to judge: floats in [-1, 1] and their samples a second."""

    name: str
    audio_CT: Tensor
    sample_rate: int


class Reference:
    """The training and held-out audio as the judge knows it: features, scale, floors."""

    @classmethod
    def fit(
        cls,
        training: Iterable[Sound],
        held_out: Iterable[Sound] = (),
        *,
        device: torch.device | str = "cpu",
        on_progress: Progress | None = None,
    ) -> Reference:
        """Measure the training audio and what was held out of it.

        Raises AudioError where the training audio is too short to be told from itself.
        """
        raise NotImplementedError

    def judge(
        self,
        sounds: Iterable[Sound],
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        on_progress: Progress | None = None,
    ) -> Judgement:
        """Score `sounds`. Raises AudioError where none is long enough for a window."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Keep it for `load`."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path) -> Reference:
        """What `save` wrote."""
        raise NotImplementedError


def judge(
    generated: Iterable[Sound],
    training: Iterable[Sound],
    held_out: Iterable[Sound] = (),
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> Judgement:
    """`generated` against `training` with both floors; for several sets keep a `Reference`."""
    reference = Reference.fit(training, held_out, device=device, on_progress=on_progress)
    return reference.judge(generated, seed=seed, device=device, on_progress=on_progress)
