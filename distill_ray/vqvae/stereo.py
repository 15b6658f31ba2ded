"""Two channels as their mid and side, and back.

Phases that are found for left and right apart make of what is in the middle something wide and hollow; the
sum and the difference of both keep how alike they are, whatever their phases (Johnston & Ferreira 1992).

Shapes: `...` any leading dimensions, C channels, T samples.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mid_and_side(audio_CT: Tensor) -> Tensor:
    """[..., C, T]: half the sum and half the difference of two channels; others as they are."""
    if audio_CT.shape[-2] != 2:
        return audio_CT
    left_T, right_T = audio_CT.unbind(-2)
    return torch.stack([(left_T + right_T) / 2, (left_T - right_T) / 2], dim=-2)


def left_and_right(audio_CT: Tensor) -> Tensor:
    """[..., C, T] of which `mid_and_side` made this."""
    if audio_CT.shape[-2] != 2:
        return audio_CT
    mid_T, side_T = audio_CT.unbind(-2)
    return torch.stack([mid_T + side_T, mid_T - side_T], dim=-2)
