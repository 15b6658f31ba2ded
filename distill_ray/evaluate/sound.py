"""What the judge is given; apart from `reference.py` so that what that imports can use it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sound(NamedTuple):
    """One sound to judge: floats in [-1, 1] [C, T] and their samples a second."""

    name: str
    audio_CT: Tensor
    sample_rate: int
