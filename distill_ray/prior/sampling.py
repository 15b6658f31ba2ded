"""Drawing codes from a `CodePrior`, step by step through its KV cache.

Every code is drawn by inverting its distribution at one uniform number. Row i of a batch has its own stream
of uniform numbers, seeded by (seed, i), so its codes depend neither on how many other rows there are nor on
how many frames are asked for (up to the floating-point rounding of batched matrix products): the first four
of eight outputs are the four outputs, and the first ten seconds of twenty are the ten seconds.

Legend: B batch, Q RVQ levels, K codebook size, T code frames, S sequence steps, L codes in a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distill_ray.config.setting import Section, setting
from distill_ray.errors import CodeShapeError, UsageError
from distill_ray.prior.model import CodePrior
from distill_ray.prior.patterns import unflatten_codes
from distill_ray.prior.transformer import KVCache

PREFILL_STEPS = 1024


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """How codes are drawn; raises ConfigError naming every wrong setting."""

    table: ClassVar[str] = "sampling"

    temperature: float = setting(
        1.0, "divides the logits; 0 always takes the likeliest code", flag="--temperature", low=0.0
    )
    top_k: int = setting(0, "draw among the k likeliest codes; 0: all", flag="--top-k", low=0)
    top_p: float = setting(
        1.0, "draw among the likeliest codes that reach this probability", flag="--top-p", above=0.0, high=1.0
    )


@torch.inference_mode()
def sample_codes(
    prior: CodePrior,
    *,
    frames: int,
    batch: int = 1,
    prompt_BQT: Tensor | None = None,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Tensor:
    """codes_BQT int64 on the prior's device: the prompt's frames, if any, then exactly `frames` new ones.

    prompt_BQT: codes of every row, or of one row that all continue; kept as they are. It is taken as an
    excerpt (its first frame need not begin a recording); without one, generation starts at a beginning.
    generator: any torch.Generator; one number is drawn from it and seeds all rows. None: seed 0.
    on_frame: called with the number of new frames whose codes have been issued (the device may be behind).

    Any length works, in bounded memory besides the result: attention slides over the last
    `config.context_frames` frames. The prior is put in eval mode meanwhile. Nothing waits for the device
    between steps. Raises UsageError for no frames or rows and for a prompt that is not of this prior.
    """
    if frames < 1 or batch < 1:
        raise UsageError(f"{frames} frames of {batch} outputs cannot be generated; ask for at least one each")
    sampling = sampling or SamplingConfig()
    was_training = prior.training
    prior.eval()
    try:
        return _Run(prior, frames, batch, prompt_BQT, sampling, generator).codes(on_frame)
    finally:
        prior.train(was_training)


class _Run:
    """One call of `sample_codes`: the sequence as far as it is filled, and the cache behind it."""

    def __init__(
        self,
        prior: CodePrior,
        frames: int,
        batch: int,
        prompt_BQT: Tensor | None,
        sampling: SamplingConfig,
        generator: torch.Generator | None,
    ) -> None:
        self.prior, self.sampling = prior, sampling
        device = prior.heads_QKE.device
        levels = prior.config.num_quantizers
        self.prompt_frames = 0
        starts_B = None
        if prompt_BQT is not None:
            prompt_BQT = _checked_prompt(prompt_BQT, prior, batch).to(device).long().expand(batch, -1, -1)
            self.prompt_frames = prompt_BQT.shape[2]
            starts_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.frames = self.prompt_frames + frames
        codes_BQT = torch.zeros(batch, levels, self.frames, dtype=torch.int64, device=device)
        if prompt_BQT is not None:
            codes_BQT[:, :, : self.prompt_frames] = prompt_BQT
        self.tokens_BLS = prior.tokens(codes_BQT, starts_B)
        self.first_BL1 = prior.first_tokens(batch, starts_B, device)
        self.cache: KVCache = prior.transformer.new_cache()
        self.first_step = prior.pattern.step(self.prompt_frames, 0)
        self.last_step = self.tokens_BLS.shape[2]
        self.drawn_LS = self._drawn(device)
        self.noise_BLS = self._noise(batch, generator).to(device)

    def codes(self, on_frame: Callable[[int], None] | None) -> Tensor:
        prior, pattern = self.prior, self.prior.pattern
        inputs_BL1 = self._prefill()
        for step in range(self.first_step, self.last_step):
            hidden_BE = prior.hidden(inputs_BL1, self.cache)[:, -1]
            logits_BLK = prior.step_logits(hidden_BE, step)
            noise_BL = self.noise_BLS[:, :, step - self.first_step]
            new_BL = draw(logits_BLK, noise_BL, self.sampling)
            self.tokens_BLS[:, :, step] = torch.where(
                self.drawn_LS[:, step], new_BL, self.tokens_BLS[:, :, step]
            )
            inputs_BL1 = self.tokens_BLS[:, :, step : step + 1]
            done = step - pattern.step(0, pattern.num_quantizers - 1)
            if on_frame is not None and done % pattern.stride == 0:
                frame = done // pattern.stride + 1 - self.prompt_frames
                if frame >= 1:
                    on_frame(frame)
        if prior.is_flat:
            return unflatten_codes(self.tokens_BLS[:, 0], prior.config.num_quantizers).contiguous()
        return pattern.collect(self.tokens_BLS, self.frames)

    def _prefill(self) -> Tensor:
        """Fill the cache with the prompt; returns the input of the first step to draw."""
        inputs_BLS = torch.cat((self.first_BL1, self.tokens_BLS[:, :, : self.first_step]), dim=2)
        for start in range(0, self.first_step, PREFILL_STEPS):
            self.prior.hidden(
                inputs_BLS[:, :, start : min(start + PREFILL_STEPS, self.first_step)], self.cache
            )
        return inputs_BLS[:, :, -1:]

    def _drawn(self, device: torch.device) -> Tensor:
        """drawn_LS bool: what is drawn, neither prompt nor special.

        In the delay pattern coarse levels run on past the last frame, so that the fine ones of the last
        frames follow real codes, as in the middle of a recording; `collect` drops the surplus.
        """
        steps = torch.arange(self.last_step, device=device)
        if self.prior.is_flat:
            return (steps >= self.first_step)[None]
        level_Q1 = torch.arange(self.prior.config.num_quantizers, device=device)[:, None]
        return steps - level_Q1 >= self.prompt_frames

    def _noise(self, batch: int, generator: torch.Generator | None) -> Tensor:
        """noise_BLS float32 in [0, 1) on the CPU, the same on every device; nothing for greedy."""
        slots, steps = self.tokens_BLS.shape[1], self.last_step - self.first_step
        if self.sampling.temperature == 0.0:
            return torch.zeros(1, 1, 1).expand(batch, slots, steps)
        seed = 0
        if generator is not None:
            seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        rows = [
            torch.rand(steps, slots, generator=torch.Generator().manual_seed(_row_seed(seed, row)))
            for row in range(batch)
        ]
        return torch.stack(rows).transpose(1, 2).contiguous()


def _row_seed(seed: int, row: int) -> int:
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
    probs_BLK = torch.softmax(logits_BLK.float() / sampling.temperature, dim=-1)
    size = probs_BLK.shape[-1]
    top_k = sampling.top_k if sampling.top_k else size
    if top_k >= size and sampling.top_p >= 1.0:
        return _invert(probs_BLK, noise_BL)
    sorted_BLK, order_BLK = probs_BLK.sort(dim=-1, descending=True, stable=True)
    if sampling.top_p < 1.0:
        before_BLK = sorted_BLK.cumsum(dim=-1) - sorted_BLK
        sorted_BLK = sorted_BLK.masked_fill(before_BLK >= sampling.top_p, 0.0)
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
