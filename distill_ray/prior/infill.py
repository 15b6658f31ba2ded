"""Drawing some codes of a recording anew, with the others as context before and after: gaps and variations.

A prior with a `masked_share` is asked level by level, coarse levels first, and within a level in a few steps:
each draws all codes that are still masked and keeps those that it is surest of, by the logarithm of their
probability with Gumbel noise that fades out (MaskGIT, Chang et al. 2022; VampNet, Garcia et al. 2023). One
without can draw them in the order of its pattern, looking back only (`redraw`).

Rows have streams of random numbers of their own, as in `sampling.py`.

Legend: B batch, Q RVQ levels, K codebook size, T code frames, W frames of a window, L codes in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.config.generation import SamplingConfig
from distill_ray.errors import CodeShapeError, UsageError
from distill_ray.prior.drawing import draw, drawn_seed, row_streams
from distill_ray.prior.masking import masked_share
from distill_ray.prior.model import CodePrior
from distill_ray.prior.patterns import flatten_codes, unflatten_codes
from distill_ray.prior.sampling import evaluating

FIRST_STEPS, LEAST_STEPS = 16, 4
"""Steps of the coarsest level, and of the fine ones; each level takes half as many as the one before."""
UNSURENESS = 1.0
"""Weight of the Gumbel noise at the first step. With MaskGIT's 4.5 what was filled in was less likely than
real codes are; without noise it was of half the variety (docs/measurements/2026-11-30-editing.md).
"""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Frames `start` to `stop` that are filled together, and the window of frames that are looked at."""

    start: int
    stop: int
    seen_start: int
    seen_stop: int


@torch.inference_mode()
def infill(
    prior: CodePrior,
    codes_BQT: Tensor,
    masked_QT: Tensor,
    *,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """codes_BQT int64 on the prior's device, those of `masked_QT` drawn anew and all others as they were.

    codes_BQT: any integer type; masked ones are not looked at. masked_QT: bool; where a level of a frame is
    masked, finer ones are too. generator: one number is drawn from it and seeds all rows; None: seed 0.
    on_step: called with steps done and steps in all. Any length works: of long recordings as many frames are
    seen at once as in training, half of them context.

    Raises UsageError for a prior that has not learnt to fill in, and for codes that are not of this prior.
    """
    if prior.masks is None:
        raise UsageError("this prior has not learnt to fill in; train it with a masked share above 0")
    run = _Infill(prior, codes_BQT, masked_QT, sampling or SamplingConfig(), generator)
    steps = list(run.steps())
    with evaluating(prior):
        for done, step in enumerate(steps, 1):
            step()
            if on_step is not None:
                on_step(done, len(steps))
    return run.codes_BQT


class _Infill:
    """A recording that is being filled."""

    def __init__(
        self,
        prior: CodePrior,
        codes_BQT: Tensor,
        masked_QT: Tensor,
        sampling: SamplingConfig,
        generator: torch.Generator | None,
    ) -> None:
        self.prior, self.sampling = prior, sampling
        device = prior.heads_QKE.device
        self.codes_BQT = checked_codes(codes_BQT, masked_QT, prior).to(device).long().clone()
        self.masked_BQT = masked_QT.to(device).expand_as(self.codes_BQT).clone()
        self.codes_BQT.masked_fill_(self.masked_BQT, 0)
        self.rows = row_streams(drawn_seed(generator), len(self.codes_BQT))

    def steps(self) -> Iterator[Callable[[], None]]:
        """What is to be done, in order."""
        for level, masked_T in enumerate(self.masked_BQT[0].cpu()):
            count = max(LEAST_STEPS, FIRST_STEPS >> level)
            for piece in pieces(masked_T, self.prior.config.training_frames):
                open_frames = int(masked_T[piece.start : piece.stop].sum())
                for step in range(min(count, open_frames)):
                    progress = (step + 1) / min(count, open_frames)
                    left = min(int(masked_share(progress) * open_frames), open_frames - step - 1)
                    yield lambda level=level, piece=piece, progress=progress, left=left: self._step(  # type: ignore[misc]
                        level, piece, progress, left
                    )

    def _step(self, level: int, piece: _Piece, progress: float, left: int) -> None:
        """Draw the codes of the piece that are masked and keep all but the `left` least sure ones."""
        seen = slice(piece.seen_start, piece.seen_stop)
        hidden_BWE = self.prior.filled(self.codes_BQT[:, :, seen], self.masked_BQT[:, :, seen])
        inner = slice(piece.start - piece.seen_start, piece.stop - piece.seen_start)
        logits_BWK = functional.linear(hidden_BWE[:, inner], self.prior.heads_QKE[level]).float()
        noise_2BW = torch.stack(
            [torch.rand(2, piece.stop - piece.start, generator=row) for row in self.rows], dim=1
        ).to(logits_BWK.device)
        drawn_BW = draw(logits_BWK, noise_2BW[0], self.sampling)
        masked_BW = self.masked_BQT[:, level, piece.start : piece.stop]
        codes_BW = self.codes_BQT[:, level, piece.start : piece.stop]
        codes_BW.copy_(torch.where(masked_BW, drawn_BW, codes_BW))
        log_BW = logits_BWK.log_softmax(-1).gather(-1, drawn_BW[..., None])[..., 0]
        gumbel_BW = -torch.log(-torch.log(noise_2BW[1].clamp(1e-9, 1 - 1e-7)))
        sureness_BW = log_BW + UNSURENESS * (1 - progress) * gumbel_BW
        order_BW = sureness_BW.masked_fill(~masked_BW, torch.inf).argsort(dim=1, stable=True)
        masked_BW.zero_().scatter_(1, order_BW[:, :left], True)


def pieces(masked_T: Tensor, window: int) -> Iterator[_Piece]:
    """Stretches that hold all that is masked, each filled at once within `window` frames.

    A recording that fits is one piece. Of a longer one a piece is half a window, as near to the middle of it
    as the recording allows.
    """
    frames = len(masked_T)
    places = masked_T.nonzero()[:, 0].tolist()
    if not places:
        return
    if frames <= window:
        yield _Piece(start=0, stop=frames, seen_start=0, seen_stop=frames)
        return
    stop = 0
    for start in places:
        if start < stop:
            continue
        stop = min(start + max(1, window // 2), places[-1] + 1)
        seen_start = min(max(0, (start + stop - window) // 2), frames - window)
        yield _Piece(start=start, stop=stop, seen_start=seen_start, seen_stop=seen_start + window)


@torch.inference_mode()
def redraw(
    prior: CodePrior,
    codes_BQT: Tensor,
    masked_QT: Tensor,
    *,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The same as `infill` by any prior, which continues what came before with the kept codes put in.

    It does not look ahead: fine levels follow the coarse ones that stay, but what is drawn need not lead to
    what follows. Raises UsageError for codes that are not of this prior.
    """
    sampling = sampling or SamplingConfig()
    device, levels = prior.heads_QKE.device, prior.config.num_quantizers
    codes_BQT = checked_codes(codes_BQT, masked_QT, prior).to(device).long()
    batch, _, frames = codes_BQT.shape
    middle_B = torch.zeros(batch, dtype=torch.bool, device=device)
    tokens_BLS = prior.tokens(codes_BQT, middle_B).clone()
    masked_BQT = masked_QT.to(device).expand_as(codes_BQT).long()
    laid_BLS = flatten_codes(masked_BQT)[:, None] if prior.is_flat else prior.pattern.lay_out(masked_BQT, 0)
    rows, cache = row_streams(drawn_seed(generator), batch), prior.transformer.new_cache()
    inputs_BL1, steps = prior.first_tokens(batch, middle_B, device), tokens_BLS.shape[2]
    with evaluating(prior):
        for step in range(steps):
            logits_BLK = prior.step_logits(prior.hidden(inputs_BL1, cache)[:, -1], step)
            noise_BL = torch.stack([torch.rand(tokens_BLS.shape[1], generator=row) for row in rows])
            new_BL = draw(logits_BLK, noise_BL.to(device), sampling)
            masked_BL = laid_BLS[:, :, step].bool()
            tokens_BLS[:, :, step] = torch.where(masked_BL, new_BL, tokens_BLS[:, :, step])
            inputs_BL1 = tokens_BLS[:, :, step, None]
            if on_step is not None:
                on_step(step + 1, steps)
    if prior.is_flat:
        return unflatten_codes(tokens_BLS[:, 0], levels)
    return prior.pattern.collect(tokens_BLS, frames)


def checked_codes(codes_BQT: Tensor, masked_QT: Tensor, prior: CodePrior) -> Tensor:
    """`codes_BQT`. Raises UsageError and CodeShapeError where they are not of this prior."""
    levels, size = prior.config.num_quantizers, prior.config.codebook_size
    if codes_BQT.dim() != 3 or codes_BQT.shape[1] != levels or not codes_BQT.shape[2]:
        raise CodeShapeError(
            f"codes of shape {tuple(codes_BQT.shape)} do not have the {levels} levels of the prior and a "
            "frame or more; encode them with the codec that it was trained on"
        )
    if masked_QT.shape != codes_BQT.shape[1:]:
        raise CodeShapeError(
            f"a mask of shape {tuple(masked_QT.shape)} does not fit codes of shape {tuple(codes_BQT.shape)}"
        )
    low, high = int(codes_BQT.min()), int(codes_BQT.max())
    if low < 0 or high >= size:
        raise UsageError(
            f"the codes span {low} to {high}, outside the prior's 0 to {size - 1}; "
            "encode them with the codec that it was trained on"
        )
    return codes_BQT
