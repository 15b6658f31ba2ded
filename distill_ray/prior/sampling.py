"""Drawing codes from a `CodePrior`, step by step through its KV cache.

Every code is drawn by inverting its distribution at one uniform number. Row i of a batch has its own stream
of uniform numbers, seeded by (seed, i), so its codes depend neither on how many other rows there are nor on
how many frames are asked for (up to the floating-point rounding of batched matrix products): the first four
of eight outputs are the four outputs, and the first ten seconds of twenty are the ten seconds.

Legend: B batch, Q RVQ levels, K codebook size, T code frames, S sequence steps, M the first of those to draw,
L codes in a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.config.generation import SamplingConfig
from distill_ray.errors import CodeShapeError, UsageError
from distill_ray.prior.model import CodePrior
from distill_ray.prior.transformer import KVCache

PREFILL_STEPS = 1024
NOISE_STEPS = 1024
"""Steps whose uniform numbers are drawn, and moved to the device, at once."""

LEAST_TEMPERATURE = 1e-30
"""float32 has no use for a smaller divisor; greedy long before."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What is asked for, and how firmly: classifier-free guidance (Ho and Salimans 2022).

    condition_E: what it adds to the inputs (`CodePrior.condition`). Codes are drawn from the logits
    u + scale · (c - u) of c with it and u without. That takes two rows for each sound, all with it before
    all without, unless `scale` is 1.
    """

    condition_E: Tensor
    scale: float = 1.0

    @property
    def is_double(self) -> bool:
        """Whether each sound takes two rows."""
        return self.scale != 1.0

    def condition_B1E(self, batch: int) -> Tensor:
        """For the rows of `batch` sounds."""
        rows = 2 * batch if self.is_double else batch
        condition_B1E = self.condition_E.expand(rows, 1, -1)
        if not self.is_double:
            return condition_B1E
        with_B11 = torch.arange(rows, device=condition_B1E.device)[:, None, None] < batch
        return condition_B1E * with_B11

    def rows(self, inputs_BLS: Tensor) -> Tensor:
        """Inputs of the rows."""
        return inputs_BLS.repeat(2, 1, 1) if self.is_double else inputs_BLS

    def joined(self, logits_BLK: Tensor) -> Tensor:
        """Logits of the sounds from those of their rows."""
        if not self.is_double:
            return logits_BLK
        with_BLK, without_BLK = logits_BLK.float().chunk(2)
        return torch.lerp(without_BLK, with_BLK, self.scale)


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
    on_frame: called with the number of new frames whose codes have been issued (the device may be behind).

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
) -> Iterator[Tensor]:
    """The codes of `sample_codes`, as soon as they are drawn: blocks codes_BQT int64 on the prior's device.

    Joined along T they are what `sample_codes` returns for the same arguments. The first block is the prompt,
    where there is one, and every other a single frame: codes [B, Q, 1] of frame t are drawn once t + Q steps
    (delay) or (t + 1) · Q (flatten) have been taken, and no step is taken before it is asked for.

    Memory is bounded at any length. On a GPU a block may still be on its way; nothing waits for it but the
    uniform numbers of the next NOISE_STEPS steps. The prior is in eval mode until the iterator ends or is
    closed. Raises UsageError, when called, for no frames or rows and for a prompt that is not of this prior.
    """
    if frames < 1 or batch < 1:
        raise UsageError(f"{frames} frames of {batch} outputs cannot be generated; ask for at least one each")
    sampling = sampling or SamplingConfig()
    return _Run(prior, frames, batch, prompt_BQT, guidance, sampling, generator).blocks()


class _Run:
    """One sequence being drawn: what precedes it, and the cache behind it."""

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
        self.guidance = guidance
        device, levels = prior.heads_QKE.device, prior.config.num_quantizers
        self.prompt_BQT = torch.empty(batch, levels, 0, dtype=torch.int64, device=device)
        starts_B = torch.full((batch,), sampling.start == "beginning", device=device)
        if prompt_BQT is not None:
            prompt_BQT = _checked_prompt(prompt_BQT, prior, batch).to(device).long()
            self.prompt_BQT = prompt_BQT.expand(batch, -1, -1)
            starts_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.prompt_frames = self.prompt_BQT.shape[2]
        self.first_step = prior.pattern.step(self.prompt_frames, 0)
        self.last_step = prior.pattern.steps(self.prompt_frames + frames)
        # The first frame to draw is a blank: a sequence has at least one.
        tokens_BLS = prior.tokens(functional.pad(self.prompt_BQT, (0, 1)), starts_B)
        first_BL1 = prior.first_tokens(batch, starts_B, device)
        self.inputs_BLS = torch.cat((first_BL1, tokens_BLS[:, :, : self.first_step]), dim=2)
        # In the delay pattern fine levels lag: the first Q - 1 steps M still hold their codes of the prompt.
        lag = 0 if prior.is_flat else levels - 1
        self.known_BLM = tokens_BLS[:, :, self.first_step : self.first_step + lag]
        level_Q1 = torch.arange(levels, device=device)[:, None]
        self.drawn_LM = torch.arange(lag, device=device) >= level_Q1
        self.cache: KVCache = prior.transformer.new_cache()
        self.seed = 0 if sampling.temperature == 0.0 else drawn_seed(generator)

    @torch.inference_mode()
    def blocks(self) -> Iterator[Tensor]:
        with evaluating(self.prior):
            if self.prompt_frames:
                yield self.prompt_BQT
            yield from self._frames()

    def _frames(self) -> Iterator[Tensor]:
        """The new frames, [B, Q, 1] each.

        In the delay pattern coarse levels run on past the last frame, so that the fine ones of the last
        frames follow real codes, as in the middle of a recording; the surplus belongs to no frame.
        """
        prior, pattern = self.prior, self.prior.pattern
        recent: deque[Tensor] = deque(maxlen=pattern.num_quantizers)  # the steps of one frame
        inputs_BL1 = self._prefill()
        for index, noise_BL in enumerate(self._noise()):
            step = self.first_step + index
            hidden_BE = self._hidden(inputs_BL1)[:, -1]
            logits_BLK = prior.step_logits(hidden_BE, step)
            if self.guidance is not None:
                logits_BLK = self.guidance.joined(logits_BLK)
            new_BL = draw(logits_BLK, noise_BL, self.sampling)
            if index < self.known_BLM.shape[2]:
                new_BL = torch.where(self.drawn_LM[:, index], new_BL, self.known_BLM[:, :, index])
            recent.append(new_BL)
            inputs_BL1 = new_BL[:, :, None]
            done = step - pattern.step(self.prompt_frames, pattern.num_quantizers - 1)
            if done >= 0 and done % pattern.stride == 0:
                steps_BLQ = torch.stack(tuple(recent), dim=2)
                yield (steps_BLQ[:, 0] if prior.is_flat else steps_BLQ.diagonal(dim1=1, dim2=2))[:, :, None]

    def _prefill(self) -> Tensor:
        """Fill the cache with the prompt; returns the input of the first step to draw."""
        for start in range(0, self.first_step, PREFILL_STEPS):
            stop = min(start + PREFILL_STEPS, self.first_step)
            self._hidden(self.inputs_BLS[:, :, start:stop])
        return self.inputs_BLS[:, :, -1:]

    def _hidden(self, inputs_BLS: Tensor) -> Tensor:
        if self.guidance is None:
            return self.prior.hidden(inputs_BLS, self.cache)
        condition_B1E = self.guidance.condition_B1E(self.batch)
        return self.prior.hidden(self.guidance.rows(inputs_BLS), self.cache, condition_B1E)

    def _noise(self) -> Iterator[Tensor]:
        """noise_BL float32 in [0, 1) of each step to draw, the same on every device; nothing for greedy."""
        device, slots = self.inputs_BLS.device, self.inputs_BLS.shape[1]
        steps = self.last_step - self.first_step
        if self.sampling.temperature == 0.0:
            yield from repeat(torch.zeros(self.batch, slots, device=device), steps)
            return
        rows = row_streams(self.seed, self.batch)
        for start in range(0, steps, NOISE_STEPS):
            count = min(NOISE_STEPS, steps - start)
            noise_BSL = torch.stack([torch.rand(count, slots, generator=row) for row in rows])
            yield from noise_BSL.to(device).unbind(1)


@contextmanager
def evaluating(prior: CodePrior) -> Iterator[None]:
    """The prior in eval mode, and afterwards in the one that it was in."""
    was_training = prior.training
    prior.eval()
    try:
        yield
    finally:
        prior.train(was_training)


def drawn_seed(generator: torch.Generator | None) -> int:
    """One number of `generator`, which seeds all rows; 0 without one."""
    if generator is None:
        return 0
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def row_streams(seed: int, rows: int) -> list[torch.Generator]:
    """A stream of random numbers for each row, on the CPU."""
    return [torch.Generator().manual_seed(row_seed(seed, row)) for row in range(rows)]


def row_seed(seed: int, row: int) -> int:
    """A 63-bit mix of both (SplitMix64's finaliser), so that neighbouring rows share nothing."""
    mask = 2**64 - 1
    z = (seed + (row + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1


def draw(logits_BLK: Tensor, noise_BL: Tensor, sampling: SamplingConfig) -> Tensor:
    """codes_BL int64: the code at which each cumulative distribution passes its uniform number."""
    if sampling.temperature == 0.0:
        return logits_BLK.argmax(dim=-1)
    # From the likeliest code down, so that no quotient overflows upward: as temperature falls, the rest goes
    # to -inf and the draw to the likeliest code.
    lags_BLK = logits_BLK.float() - logits_BLK.float().amax(dim=-1, keepdim=True)
    probs_BLK = torch.softmax(lags_BLK / max(sampling.temperature, LEAST_TEMPERATURE), dim=-1)
    size = probs_BLK.shape[-1]
    top_k = sampling.top_k if sampling.top_k else size
    if top_k >= size and sampling.top_p >= 1.0:
        return _invert(probs_BLK, noise_BL)
    sorted_BLK, order_BLK = probs_BLK.sort(dim=-1, descending=True, stable=True)
    if sampling.top_p < 1.0:
        before_BLK = sorted_BLK.cumsum(dim=-1) - sorted_BLK
        beyond_BLK = before_BLK >= sampling.top_p
        beyond_BLK[..., 0] = False  # the likeliest code stays, also where float32 makes a tiny top_p zero
        sorted_BLK = sorted_BLK.masked_fill(beyond_BLK, 0.0)
    place_BL = _invert(sorted_BLK[..., :top_k], noise_BL)
    return order_BLK.gather(-1, place_BL[..., None])[..., 0]


def _invert(probs_BLK: Tensor, noise_BL: Tensor) -> Tensor:
    """Inverse of the cumulative sum of unnormalised probabilities; never an entry of probability 0."""
    cumulative_BLK = probs_BLK.cumsum(dim=-1)
    total_BL1 = cumulative_BLK[..., -1:]
    # Rounding may lift the product to the total itself, past every entry.
    below_total = torch.nextafter(total_BL1, torch.zeros_like(total_BL1))
    point_BL1 = torch.minimum(noise_BL[..., None] * total_BL1, below_total)
    return (cumulative_BLK <= point_BL1).sum(dim=-1)


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
