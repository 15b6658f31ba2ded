"""Drawing codes from a `CodePrior`, step by step through its KV cache.

Row i of a batch has its own stream of uniform numbers (`drawing.py`), so its codes depend neither on how many
other rows there are nor on how many frames are asked for (up to the floating-point rounding of batched matrix
products): the first four of eight outputs are the four outputs, and the first ten seconds of twenty are the
ten seconds. On a GPU steps run in fixed memory, as one CUDA graph (`fixed_steps.py`).

Legend: B batch, Q RVQ levels, K codebook size, T code frames, S sequence steps, M the first of those to draw,
L codes in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.config.generation import SamplingConfig
from distill_ray.errors import CodeShapeError, UsageError
from distill_ray.prior.drawing import draw, drawn_seed, row_streams
from distill_ray.prior.fixed_steps import FixedSteps, fixed_steps
from distill_ray.prior.guidance import Guidance
from distill_ray.prior.model import CodePrior
from distill_ray.prior.openings import spread
from distill_ray.prior.patterns import unflatten_codes
from distill_ray.prior.transformer import KVCache

PREFILL_STEPS = 1024
NOISE_STEPS = 1024
"""Steps whose uniform numbers are drawn, and moved to the device, at once."""
_OPENING_SEED = 0x5EED

_BLOCK_FRAMES = {"cpu": 1}
_BLOCK_FRAMES_ELSEWHERE = 32
"""Frames after which the host takes what was drawn and tells of it: on a GPU both cost as much as a frame."""


@torch.inference_mode()
def sample_codes(
    prior: CodePrior,
    *,
    frames: int,
    batch: int = 1,
    prompt_BQT: Tensor | None = None,
    guidance: Guidance | None = None,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Tensor:
    """codes_BQT int64 on the prior's device: the prompt's frames, if any, then exactly `frames` new ones.

    prompt_BQT: codes of every row, or of one row that all continue; kept as they are. It is taken as an
    excerpt (its first frame need not begin a recording); without one, `sampling.start` says what came before.
    guidance: what is asked for, of every row.
    generator: any torch.Generator; one number is drawn from it and seeds all rows. None: seed 0.
    on_frame: called with the number of new frames whose codes have been issued (the device may be behind);
    on a GPU not for each of them.

    Any length works, in bounded memory besides the result: attention slides over the last
    `config.context_frames` frames. The prior is put in eval mode meanwhile. Raises UsageError for no frames
    or rows and for a prompt that is not of this prior.
    """
    blocks_BQT = stream_codes(
        prior,
        frames=frames,
        batch=batch,
        prompt_BQT=prompt_BQT,
        guidance=guidance,
        sampling=sampling,
        generator=generator,
        block_frames=_BLOCK_FRAMES.get(prior.heads_QKE.device.type, _BLOCK_FRAMES_ELSEWHERE),
    )
    prompt_frames = 0 if prompt_BQT is None else prompt_BQT.shape[2]
    shape = (batch, prior.config.num_quantizers, prompt_frames + frames)
    codes_BQT = torch.empty(shape, dtype=torch.int64, device=prior.heads_QKE.device)
    filled = 0
    for block_BQT in blocks_BQT:
        codes_BQT[:, :, filled : filled + block_BQT.shape[2]] = block_BQT
        filled += block_BQT.shape[2]
        if on_frame is not None and filled > prompt_frames:
            on_frame(filled - prompt_frames)
    return codes_BQT


def stream_codes(
    prior: CodePrior,
    *,
    frames: int,
    batch: int = 1,
    prompt_BQT: Tensor | None = None,
    guidance: Guidance | None = None,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    block_frames: int = 1,
) -> Iterator[Tensor]:
    """The codes of `sample_codes`, as soon as they are drawn: blocks codes_BQT int64 on the prior's device.

    Joined along T they are what `sample_codes` returns for the same arguments. The first block is the prompt,
    where there is one, and every other `block_frames` frames, the last one what is left: codes [B, Q, 1] of
    frame t are drawn once t + Q steps (delay) or (t + 1) · Q (flatten) have been taken, and no step is taken
    before it is asked for.

    Memory is bounded at any length. On a GPU a block may still be on its way; nothing waits for it. The prior
    is in eval mode until the iterator ends or is closed. Raises UsageError, when called, for no frames or
    rows and for a prompt that is not of this prior.
    """
    if frames < 1 or batch < 1:
        raise UsageError(f"{frames} frames of {batch} outputs cannot be generated; ask for at least one each")
    sampling = sampling or SamplingConfig()
    return _Run(prior, frames, batch, prompt_BQT, guidance, sampling, generator).blocks(block_frames)


class _Run:
    """One sequence being drawn: what precedes it, and where it goes."""

    def __init__(
        self,
        prior: CodePrior,
        frames: int,
        batch: int,
        prompt_BQT: Tensor | None,
        guidance: Guidance | None,
        sampling: SamplingConfig,
        generator: torch.Generator | None,
    ) -> None:
        self.prior, self.sampling, self.batch = prior, sampling, batch
        self.guidance, self.frames = guidance, frames
        device, levels = prior.heads_QKE.device, prior.config.num_quantizers
        self.prompt_BQT = torch.empty(batch, levels, 0, dtype=torch.int64, device=device)
        starts_B = torch.full((batch,), sampling.start == "beginning", device=device)
        self.seed = 0 if sampling.temperature == 0.0 else drawn_seed(generator)
        self.heard = prompt_BQT is not None
        if prompt_BQT is not None:
            prompt_BQT = _checked_prompt(prompt_BQT, prior, batch).to(device).long()
            self.prompt_BQT = prompt_BQT.expand(batch, -1, -1)
            starts_B = torch.zeros(batch, dtype=torch.bool, device=device)
        elif sampling.start == "middle" and sampling.temperature > 0.0 and guidance is None:
            self.prompt_BQT = self._openings()
        prompt_frames = self.prompt_BQT.shape[2]
        self.first_step = prior.pattern.step(prompt_frames, 0)
        self.steps = prior.pattern.steps(prompt_frames + frames) - self.first_step
        # The first frame to draw is a blank: a sequence has at least one.
        tokens_BLS = prior.tokens(functional.pad(self.prompt_BQT, (0, 1)), starts_B)
        first_BL1 = prior.first_tokens(batch, starts_B, device)
        self.inputs_BLS = torch.cat((first_BL1, tokens_BLS[:, :, : self.first_step]), dim=2)
        # In the delay pattern fine levels lag: the first Q - 1 steps M still hold their codes of the prompt.
        lag = 0 if prior.is_flat else levels - 1
        drawn_LM = torch.arange(lag, device=device) >= torch.arange(levels, device=device)[:, None]
        known_BLM = tokens_BLS[:, :, self.first_step : self.first_step + lag]
        self.known_BLM = known_BLM.masked_fill(drawn_LM[: known_BLM.shape[1]], -1)

    def _openings(self) -> Tensor:
        """An unheard prompt for each row, of none where the prior has no openings."""
        count = len(self.prior.openings_NQT)
        if not count:
            return self.prompt_BQT
        (stream,) = row_streams(self.seed ^ _OPENING_SEED, 1)
        chosen_B = spread(count, self.batch, stream)
        return self.prior.openings_NQT[chosen_B.to(self.prompt_BQT.device)].long()

    @torch.inference_mode()
    def blocks(self, block_frames: int) -> Iterator[Tensor]:
        prior = self.prior
        # A block of uniform numbers is whole frames.
        held = min(max(1, NOISE_STEPS // prior.pattern.stride) * prior.pattern.stride, self.steps)
        with (
            evaluating(prior),
            fixed_steps(prior, self.batch, held, self.sampling, self.guidance, steps=self.steps) as fixed,
        ):
            if self.heard:
                yield self.prompt_BQT
            if fixed is None:
                take = _PlainSteps(self).take
            else:
                take = _FilledSteps(self, fixed, held).take
            yield from self._frames(take, block_frames)

    def _frames(self, take: Callable[[int], Tensor], block_frames: int) -> Iterator[Tensor]:
        """The new frames, [B, Q, up to `block_frames`] each, of the steps that `take` draws.

        In the delay pattern coarse levels run on past the last frame, so that the fine ones of the last
        frames follow real codes, as in the middle of a recording; the surplus belongs to no frame.
        """
        pattern, levels = self.prior.pattern, self.prior.config.num_quantizers
        tail_BLS: Tensor | None = None
        for start in range(0, self.frames, block_frames):
            count = min(block_frames, self.frames - start)
            if self.prior.is_flat:
                yield unflatten_codes(take(count * levels)[:, 0], levels)
                continue
            steps_BLS = take(pattern.steps(count)) if tail_BLS is None else take(count)
            if tail_BLS is not None:
                steps_BLS = torch.cat((tail_BLS, steps_BLS), dim=2)
            yield pattern.collect(steps_BLS, count)
            tail_BLS = steps_BLS[:, :, count:]

    def prefill(self, cache: KVCache) -> Tensor:
        """Fill the cache with the prompt; returns the input of the first step to draw."""
        for start in range(0, self.first_step, PREFILL_STEPS):
            stop = min(start + PREFILL_STEPS, self.first_step)
            self.hidden(self.inputs_BLS[:, :, start:stop], cache)
        return self.inputs_BLS[:, :, -1:]

    def hidden(self, inputs_BLS: Tensor, cache: KVCache) -> Tensor:
        """hidden_RSE of the rows of the steps that follow those of the cache."""
        if self.guidance is None:
            return self.prior.hidden(inputs_BLS, cache)
        condition_R1E = self.guidance.condition_B1E(self.batch)
        return self.prior.hidden(self.guidance.rows(inputs_BLS), cache, condition_R1E)

    def noise(self, held: int) -> Iterator[Tensor | None]:
        """noise_BSL float32 in [0, 1), drawn on the CPU, of `held` steps at a time, in the end of those left;
        None for greedy.
        """
        slots = self.inputs_BLS.shape[1]
        rows = row_streams(self.seed, self.batch)
        for start in range(0, self.steps, held):
            count = min(held, self.steps - start)
            if self.sampling.temperature == 0.0:
                yield None
            else:
                yield torch.stack([torch.rand(count, slots, generator=row) for row in rows])


class _PlainSteps:
    """Steps through a growing cache, started one by one from Python."""

    def __init__(self, run: _Run) -> None:
        self._run, self._cache = run, run.prior.transformer.new_cache()
        self._inputs_BL1 = run.prefill(self._cache)
        self._index = 0
        self._noise = self._each_noise()

    def take(self, count: int) -> Tensor:
        """codes_BLS of the next `count` steps."""
        return torch.stack([self._step() for _ in range(count)], dim=2)

    def _step(self) -> Tensor:
        run = self._run
        hidden_RE = run.hidden(self._inputs_BL1, self._cache)[:, -1]
        logits_BLK = run.prior.step_logits(hidden_RE, run.first_step + self._index)
        if run.guidance is not None:
            logits_BLK = run.guidance.joined(logits_BLK)
        new_BL = draw(logits_BLK, next(self._noise), run.sampling)
        if self._index < run.known_BLM.shape[2]:
            known_BL = run.known_BLM[:, :, self._index]
            new_BL = torch.where(known_BL >= 0, known_BL, new_BL)
        self._index += 1
        self._inputs_BL1 = new_BL[:, :, None]
        return new_BL

    def _each_noise(self) -> Iterator[Tensor]:
        batch, slots, _ = self._inputs_BL1.shape
        device = self._inputs_BL1.device
        for noise_BSL in self._run.noise(NOISE_STEPS):
            if noise_BSL is None:
                yield from repeat(torch.zeros(batch, slots, device=device), NOISE_STEPS)
            else:
                yield from noise_BSL.to(device).unbind(1)


class _FilledSteps:
    """Steps in fixed memory, which is filled as it runs out."""

    def __init__(self, run: _Run, fixed: FixedSteps, held: int) -> None:
        self._run, self._fixed = run, fixed
        self._noise = run.noise(held)
        self._left, self._held = run.steps, held
        self._known_BLM: Tensor | None = run.known_BLM
        cache = fixed.begin(run.guidance)
        inputs_BL1 = run.prefill(cache)
        fixed.follow(cache, inputs_BL1[:, :, 0])

    def take(self, count: int) -> Tensor:
        """codes_BLS of the next `count` steps."""
        parts: list[Tensor] = []
        while count:
            if not self._fixed.open:
                self._fill()
            part = min(count, self._fixed.open)
            parts.append(self._fixed.take(part))
            count -= part
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _fill(self) -> None:
        count = min(self._held, self._left)
        known_BLM, self._known_BLM = self._known_BLM, None
        later_BLM: Tensor | None = None
        if known_BLM is not None and known_BLM.shape[2] > count:
            known_BLM, later_BLM = known_BLM[:, :, :count], known_BLM[:, :, count:]
        self._known_BLM = later_BLM
        self._fixed.fill(count, next(self._noise), known_BLM)
        self._left -= count


@contextmanager
def evaluating(prior: CodePrior) -> Iterator[None]:
    """The prior in eval mode, and afterwards in the one that it was in."""
    was_training = prior.training
    prior.eval()
    try:
        yield
    finally:
        prior.train(was_training)


def _checked_prompt(prompt_BQT: Tensor, prior: CodePrior, batch: int) -> Tensor:
    levels, size = prior.config.num_quantizers, prior.config.codebook_size
    if prompt_BQT.dim() != 3 or prompt_BQT.shape[0] not in (1, batch) or prompt_BQT.shape[1] != levels:
        raise CodeShapeError(
            f"a prompt of shape {tuple(prompt_BQT.shape)} does not fit {batch} outputs of {levels} levels; "
            "encode it with the codec that the prior was trained on"
        )
    if prompt_BQT.shape[2] == 0:
        raise CodeShapeError("the prompt holds no code frame; give a longer one or none")
    low, high = int(prompt_BQT.min()), int(prompt_BQT.max())
    if low < 0 or high >= size:
        raise UsageError(
            f"the prompt's codes span {low} to {high}, outside the prior's 0 to {size - 1}; "
            "encode it with the codec that the prior was trained on"
        )
    return prompt_BQT
