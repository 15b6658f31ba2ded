"""What a sound is asked to be like: a label, and controls in standard deviations; and what it became.

`prior/controls.py` says what these mean, `prior/sampling.py` how they are followed.

Legend: C channels, T samples, A controls, F code frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import GUIDANCE
from distill_ray.corpus import PCM_SCALE
from distill_ray.corpus.decode import AudioDecoder, PcmBlock
from distill_ray.errors import UsageError
from distill_ray.prior import Guidance, measure
from distill_ray.prior.controls import UNITS, in_unit

MOST_GUIDANCE = 20.0
_PIECE_SECONDS = 60.0
_LIKE = re.compile(r"([a-z]+)=([+-]?\d+(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A label or none, deviations by control, and how firmly to follow them (1: as learnt, 0: not at all)."""

    label: str | None = None
    like: Mapping[str, float] = field(default_factory=dict)
    guidance: float = GUIDANCE

    def __bool__(self) -> bool:
        return self.label is not None or bool(self.like)

    def guided(self, loaded: LoadedVQModel) -> Guidance | None:
        """What `sample_codes` takes; None for a wish for nothing.

        Raises UsageError for what the model has not learnt and for a number that is out of range.
        """
        if not self:
            return None
        if not 0.0 <= self.guidance <= MOST_GUIDANCE:
            raise UsageError(f"guidance must be from 0 to {MOST_GUIDANCE:g}, not {self.guidance:g}")
        if loaded.controls is None or loaded.prior is None:
            raise UsageError(
                f"the prior of {loaded.path} has learnt no labels and no controls; train it again with "
                f"`distill-ray train-prior {loaded.path} DATA --controls 4 --overwrite`"
            )
        rows_A = torch.from_numpy(loaded.controls.asked(self.label, self.like))
        condition_11E = loaded.prior.condition(rows_A[None, :, None].to(loaded.device))
        return Guidance(condition_E=condition_11E[0, 0].detach(), scale=self.guidance)


@dataclass(frozen=True, kw_only=True)
class Followed:
    """A control in a sound that was made: deviations from the corpus's middle, and the same in its unit.

    asked is None where nothing was asked for, measured where the sound has no value.
    """

    asked: float | None
    measured: float | None
    asked_value: float | None
    measured_value: float | None
    unit: str

    def __str__(self) -> str:
        asked = "not asked for" if self.asked is None else f"asked {self.asked:+.1f}"
        if self.measured is None:
            return f"{asked}, none measured"
        return f"{asked}, measured {self.measured:+.1f} ({self.measured_value:.4g} {self.unit})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_like(texts: Iterable[str]) -> dict[str, float]:
    """Deviations by control from "brightness=+1". Raises UsageError."""
    like: dict[str, float] = {}
    for text in texts:
        found = _LIKE.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"--like {text} is not a control and standard deviations from the corpus's middle, such as "
                "brightness=+1"
            )
        if found[1] in like:
            raise UsageError(f"--like asks for {found[1]} twice; leave one out")
        like[found[1]] = float(found[2])
    return like


def followed(loaded: LoadedVQModel, wish: Wish, path: Path, prompt_seconds: float) -> dict[str, Followed]:
    """Each control that the model has, as it is on average in the sound at `path` behind the prompt."""
    controls = loaded.controls
    assert controls is not None, "what a wish is checked against"
    values_AF = _measured(loaded, path, prompt_seconds)
    found = {}
    for row_F, name in zip(values_AF, controls.scales, strict=False):
        if name not in controls.offered:
            continue
        known_F = row_F[~np.isnan(row_F)]
        asked = wish.like.get(name)
        found[name] = Followed(
            asked=asked,
            measured=float(controls.deviation(name, known_F).mean()) if len(known_F) else None,
            asked_value=None if asked is None else in_unit(name, controls.value(name, asked)),
            measured_value=in_unit(name, float(known_F.mean())) if len(known_F) else None,
            unit=UNITS[name],
        )
    return found


def _measured(loaded: LoadedVQModel, path: Path, prompt_seconds: float) -> np.ndarray:
    config = loaded.vqvae_config
    decoder = AudioDecoder(path, sample_rate=config.sample_rate, channels=config.channels)
    unheard, waiting = round(prompt_seconds * config.sample_rate), 0
    pieces: list[np.ndarray] = []
    blocks: list[PcmBlock] = []
    for block_CT in decoder.blocks():
        left_out = min(unheard, block_CT.shape[1])
        unheard -= left_out
        blocks.append(block_CT[:, left_out:])
        waiting += block_CT.shape[1] - left_out
        if waiting >= _PIECE_SECONDS * config.sample_rate:
            pieces.append(_values(blocks, config.sample_rate, config.frame_hop))
            blocks, waiting = [], 0
    if waiting:
        pieces.append(_values(blocks, config.sample_rate, config.frame_hop))
    return np.concatenate(pieces, axis=1)


def _values(blocks: Sequence[PcmBlock], sample_rate: int, frame_hop: int) -> np.ndarray:
    pcm_CT = torch.from_numpy(np.concatenate(blocks, axis=1))
    mono_1T = (pcm_CT.float() / PCM_SCALE).mean(0, keepdim=True)
    samples_1 = torch.tensor([mono_1T.shape[1]])
    return measure(mono_1T, samples_1, sample_rate=sample_rate, frame_hop=frame_hop)[0].numpy()
