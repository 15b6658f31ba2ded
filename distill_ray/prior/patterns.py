"""Code patterns: in which order the codes of all frames and levels are predicted. Pure index arithmetic.

A pattern for Q levels and T frames is a sequence of S steps, each a set of coordinates (t, q); the codes of
one step are predicted together, from all earlier steps. Both patterns put (t, q) into step
`stride * t + q`, so one number tells them apart (in the spirit of audiocraft's codebook patterns; the delay
pattern is that of Copet et al. 2023, "Simple and Controllable Music Generation"):

    delay    stride 1   step s holds (s, 0), (s-1, 1), …            S = T + Q - 1
    flatten  stride Q   step s holds (s // Q, s % Q) alone          S = T * Q

`model.py` trains on sequences laid out like this, `sampling.py` fills them step by step.

Legend: B batch, Q RVQ levels, T code frames, S sequence steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distill_ray.argument_types import checks_arguments
from distill_ray.errors import CodeShapeError


class Coordinate(NamedTuple):
    """One code: frame `t`, level `q`."""

    t: int
    q: int


@dataclass(frozen=True)
class CodePattern:
    """A pattern over `num_quantizers` levels; frame t, level q sits in step `stride * t + q`."""

    num_quantizers: int
    stride: int

    def steps(self, frames: int) -> int:
        """Steps S of a sequence of `frames` frames."""
        assert frames >= 1, "a pattern needs a frame"
        return self.stride * (frames - 1) + self.num_quantizers

    def step(self, t: int, q: int) -> int:
        """The step that holds frame t, level q."""
        return self.stride * t + q

    def coordinates(self, frames: int) -> tuple[tuple[Coordinate, ...], ...]:
        """The codes of each step, coarse levels first."""
        steps: list[list[Coordinate]] = [[] for _ in range(self.steps(frames))]
        for q in range(self.num_quantizers):
            for t in range(frames):
                steps[self.step(t, q)].append(Coordinate(t, q))
        return tuple(tuple(step) for step in steps)

    def step_index(self, frames: int, device: torch.device | None = None) -> Tensor:
        """step_QT int64: the step of each code."""
        level_Q1 = torch.arange(self.num_quantizers, device=device)[:, None]
        return self.stride * torch.arange(frames, device=device) + level_Q1

    def valid(self, frames: int, device: torch.device | None = None) -> Tensor:
        """valid_QS bool: whether a level has a code in a step."""
        none_QS = torch.zeros(self.num_quantizers, self.steps(frames), dtype=torch.bool, device=device)
        return none_QS.scatter_(1, self.step_index(frames, device), True)

    def lay_out(self, codes_BQT: Tensor, special: int) -> Tensor:
        """tokens_BQS: the codes at their steps, `special` where a level has none."""
        batch, levels, frames = codes_BQT.shape
        if levels != self.num_quantizers:
            raise CodeShapeError(f"codes have {levels} levels, and the prior {self.num_quantizers}")
        tokens_BQS = codes_BQT.new_full((batch, levels, self.steps(frames)), special)
        step_BQT = self.step_index(frames, codes_BQT.device).expand(batch, -1, -1)
        return tokens_BQS.scatter(2, step_BQT, codes_BQT)

    def collect(self, tokens_BQS: Tensor, frames: int) -> Tensor:
        """codes_BQT of the first `frames` frames: the inverse of `lay_out`."""
        step_QT = self.step_index(frames, tokens_BQS.device)
        return tokens_BQS.gather(2, step_QT.expand(tokens_BQS.shape[0], -1, -1))


def code_pattern(name: str, num_quantizers: int) -> CodePattern:
    """The pattern called `name` in `PriorConfig.pattern`: "delay" or "flatten"."""
    assert name in ("delay", "flatten"), f"PriorConfig lets no pattern {name!r} through"
    return CodePattern(num_quantizers, 1 if name == "delay" else num_quantizers)


@checks_arguments
def flatten_codes(codes_BQT: Tensor) -> Tensor:
    """flat_BS, S = T * Q: frame by frame, coarse levels first within a frame.

    Raises CodeShapeError for codes of another shape than [B, Q, T].
    """
    if codes_BQT.ndim != 3:
        raise CodeShapeError(
            f"codes must have the shape [batch, levels, frames], not {list(codes_BQT.shape)}"
        )
    return codes_BQT.transpose(1, 2).flatten(1)


@checks_arguments
def unflatten_codes(flat_BS: Tensor, num_quantizers: int) -> Tensor:
    """codes_BQT, T = S / Q: the inverse of `flatten_codes`.

    Raises CodeShapeError where S is not a multiple of `num_quantizers`.
    """
    steps = flat_BS.shape[1]
    if num_quantizers < 1 or steps % num_quantizers:
        raise CodeShapeError(
            f"a flat sequence of {steps} codes is no whole number of frames of {num_quantizers} levels; "
            "give the number of levels that it was flattened with"
        )
    return flat_BS.reshape(flat_BS.shape[0], -1, num_quantizers).transpose(1, 2)
