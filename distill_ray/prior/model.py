"""`CodePrior`: the autoregressive model of a recording's RVQ codes, and its loss.

Each step's input is the sum of the embeddings of the codes of the step before (pattern: `patterns.py`); the
transformer (`transformer.py`) turns it into the distribution of the codes of the step. Two special tokens
stand where a level has no code yet; they are inputs only and have no output, so they are never predicted:

    begin    the recording begins here: first input of a window at the start of a file, and of generation
    unknown  something came before that the model is not shown: first input of a window from the middle of a
             file and of a continued prompt; also frames past the end of a short file

With a `masked_share` the same transformer also fills in: it sees whole frames, before and after, in which
some codes are masked, and tells those of the coarsest masked level of each frame (`filled`, `masking.py`).

Sampling is in `sampling.py` and `infill.py`; windows of codes come from `windows.py`.

Legend: B batch, Q RVQ levels, K codebook size, T code frames, S sequence steps, L codes in a step (Q for
delay, 1 for flatten), D code dimension, E hidden size, A attributes of a frame (label, then controls), M
windows to fill in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.argument_types import checks_arguments
from distill_ray.config.prior import PriorConfig
from distill_ray.prior import fusing
from distill_ray.prior.openings import OPENING_FRAMES
from distill_ray.prior.patterns import CodePattern, code_pattern, flatten_codes
from distill_ray.prior.transformer import KVCache, Transformer

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class PriorOutput:
    """What a forward pass says about a batch of windows.

    loss: scalar with gradient: the mean over windows of each window's mean nats per code, so that the mean
    of equal shards is the value of the joined batch. Where all windows are full it is the mean per code.
    nats_Q, codes_Q: float32, detached: summed nats and number of codes of each level; add them up over
    batches and ranks for exact means (`nats_Q.sum() / codes_Q.sum()`). Windows to fill in count in the loss
    alone.
    """

    loss: Tensor
    nats_Q: Tensor
    codes_Q: Tensor

    @property
    def loss_Q(self) -> Tensor:
        """Mean nats per code of each level."""
        return self.nats_Q / self.codes_Q


def perplexity(loss: float) -> float:
    """exp of a loss in nats per code: between how many codes the prior hesitates."""
    return math.exp(min(loss, 700.0))


def bits_per_second(loss: float, frame_rate: float, num_quantizers: int) -> float:
    """Entropy-coded bits for a second of audio at `loss` nats per code."""
    return loss / math.log(2.0) * frame_rate * num_quantizers


class CodePrior(nn.Module):
    """The prior of `config`. Weights are initialised from torch's default generator."""

    temperature_Q: Tensor
    """What the logits of each level are divided by when codes are drawn (`calibration.py`)."""
    openings_NQT: Tensor
    """int32 codes after which a sound in the middle of things begins (`openings.py`)."""

    @checks_arguments
    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.pattern: CodePattern = code_pattern(config.pattern, config.num_quantizers)
        self.begin, self.unknown = config.codebook_size, config.codebook_size + 1
        self._rows = config.codebook_size + 2  # of one level in the embedding
        self.embedding = nn.Embedding(config.num_quantizers * self._rows, config.hidden_size)
        self.conditions = (
            nn.Embedding(config.condition_rows, config.hidden_size, padding_idx=0)
            if config.condition_rows
            else None
        )
        self.register_buffer("temperature_Q", torch.ones(config.num_quantizers), persistent=False)
        openings = (config.openings, config.num_quantizers, OPENING_FRAMES)
        self.register_buffer(
            "openings_NQT", torch.zeros(openings, dtype=torch.int32), persistent=config.openings > 0
        )
        self.transformer = Transformer(
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            dropout=config.dropout,
            window=self.context_steps,
            usual_steps=self.pattern.steps(config.training_frames),
        )
        self.heads_QKE = nn.Parameter(
            torch.empty(config.num_quantizers, config.codebook_size, config.hidden_size)
        )
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.heads_QKE, std=0.02)
        if self.conditions is not None:  # what nobody has learnt yet adds nothing
            nn.init.zeros_(self.conditions.weight)
        # A vector for masked codes of each level, and one for all frames of windows that are filled in; made
        # last, so that the others start as they do without.
        self.masks = (
            nn.Embedding(config.num_quantizers + 1, config.hidden_size) if config.masked_share else None
        )
        if self.masks is not None:
            nn.init.normal_(self.masks.weight, std=0.02)

    @property
    def context_steps(self) -> int:
        """Steps that one layer of attention spans."""
        return self.config.context_frames * self.pattern.stride

    @property
    def is_flat(self) -> bool:
        """Whether every step holds a single code (S = T * Q)."""
        return self.config.pattern == "flatten"

    @torch.no_grad()
    def init_from_vectors(self, vectors_QKL: Tensor, generator: torch.Generator | None = None) -> None:
        """Start the embeddings of codes, and their rows of the heads, as random projections of what codes add
        to the codec's latents.

        Codes that sound alike then start alike, as inputs and as what comes next. One Gaussian matrix a level
        (levels of the codec live in unrelated spaces), scaled to the standard deviation of what it replaces;
        `generator` is a CPU one. Both go on learning, each for itself.
        """
        levels, size, width = vectors_QKL.shape
        assert (levels, size) == (self.config.num_quantizers, self.config.codebook_size)
        centred = vectors_QKL.float().cpu() - vectors_QKL.float().cpu().mean(dim=1, keepdim=True)
        projection_QDE = torch.randn(levels, width, self.config.hidden_size, generator=generator)
        codes_QKE = centred @ projection_QDE
        codes_QKE *= 0.02 / codes_QKE.std(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        weight_QRE = self.embedding.weight.view(levels, self._rows, -1)
        weight_QRE[:, :size] = codes_QKE.to(weight_QRE)
        self.heads_QKE.copy_(codes_QKE)

    def forward(
        self,
        codes_BQT: Tensor,
        *,
        heard_BQT: Tensor | None = None,
        lengths_B: Tensor | None = None,
        starts_B: Tensor | None = None,
        conditions_BAT: Tensor | None = None,
        masked_MQT: Tensor | None = None,
    ) -> PriorOutput:
        """The loss of predicting every code of the windows `codes_BQT` (any integer type).

        heard_BQT: the codes that are looked back on where they are not those of the windows.
        lengths_B: int64, frames of each window that are real (at least 1); the rest is padding of any
        content. None: all. starts_B: bool, whether the window begins where its recording begins. None: all.
        conditions_BAT: rows of the embedding of conditions that hold for each frame. None: nothing is said.
        masked_MQT: bool, the codes that are masked in the last M windows (M < B), which are filled in instead
        of continued.
        """
        if masked_MQT is not None:
            return self._with_masked(codes_BQT, masked_MQT, heard_BQT, lengths_B, starts_B, conditions_BAT)
        batch, levels, frames = codes_BQT.shape
        targets_BQT = codes_BQT.long()
        heard_BQT = targets_BQT if heard_BQT is None else heard_BQT.long()
        count_B = codes_BQT.new_full((batch,), frames)
        if lengths_B is not None:
            count_B = lengths_B
            padding_B1T = torch.arange(frames, device=codes_BQT.device) >= lengths_B[:, None, None]
            targets_BQT = targets_BQT.masked_fill(padding_B1T, IGNORED)
            heard_BQT = heard_BQT.masked_fill(padding_B1T, self.unknown)
        inputs_BLS = self._inputs(heard_BQT, starts_B)
        condition_BSE = None
        if conditions_BAT is not None:
            step_S = torch.arange(inputs_BLS.shape[2], device=codes_BQT.device)
            frame_S = (step_S // self.pattern.stride).clamp(max=frames - 1)
            condition_BSE = self.condition(conditions_BAT)[:, frame_S]
        hidden_BSE = self.hidden(inputs_BLS, condition_BSE=condition_BSE)
        nats_BQ = self._nats(hidden_BSE, targets_BQT)
        loss = (nats_BQ.sum(dim=1) / (count_B * levels)).mean()
        return PriorOutput(
            loss=loss, nats_Q=nats_BQ.detach().sum(dim=0), codes_Q=count_B.sum().float().expand(levels)
        )

    def _with_masked(
        self,
        codes_BQT: Tensor,
        masked_MQT: Tensor,
        heard_BQT: Tensor | None,
        lengths_B: Tensor | None,
        starts_B: Tensor | None,
        conditions_BAT: Tensor | None,
    ) -> PriorOutput:
        batch = codes_BQT.shape[0]
        first = batch - masked_MQT.shape[0]
        assert first > 0, "some windows are continued in every step"
        continued: PriorOutput = self(
            codes_BQT[:first],
            heard_BQT=None if heard_BQT is None else heard_BQT[:first],
            lengths_B=None if lengths_B is None else lengths_B[:first],
            starts_B=None if starts_B is None else starts_B[:first],
            conditions_BAT=None if conditions_BAT is None else conditions_BAT[:first],
        )
        nats_M = self.masked_nats(
            codes_BQT[first:], masked_MQT, None if lengths_B is None else lengths_B[first:]
        )
        return replace(continued, loss=(continued.loss * first + nats_M.sum()) / batch)

    def masked_nats(self, codes_BQT: Tensor, masked_BQT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """nats_B: mean nats of the masked codes of the coarsest level that has some, window by window.

        lengths_B: as for `forward`; nothing past it may be masked.
        """
        codes_BQT = codes_BQT.long()
        inputs_BQT = codes_BQT
        if lengths_B is not None:
            padding_B1T = (
                torch.arange(codes_BQT.shape[2], device=codes_BQT.device) >= lengths_B[:, None, None]
            )
            inputs_BQT = codes_BQT.masked_fill(padding_B1T, self.unknown)
        level_B = masked_BQT.any(dim=2).int().argmax(dim=1)
        level_B1T = level_B[:, None, None].expand(-1, 1, codes_BQT.shape[2])
        masked_BT = masked_BQT.gather(1, level_B1T)[:, 0]
        targets_BT = codes_BQT.gather(1, level_B1T)[:, 0].masked_fill(~masked_BT, IGNORED)
        logits_BTK = torch.bmm(self.filled(inputs_BQT, masked_BQT), self.heads_QKE[level_B].transpose(1, 2))
        nats_BT = functional.cross_entropy(
            logits_BTK.transpose(1, 2).float(), targets_BT, ignore_index=IGNORED, reduction="none"
        )
        return nats_BT.sum(dim=1) / masked_BT.sum(dim=1)

    def filled(self, codes_BQT: Tensor, masked_BQT: Tensor) -> Tensor:
        """hidden_BTE of whole frames that see each other, before and after; masked codes are not looked at.

        Made for windows of up to `config.training_frames`.
        """
        assert self.masks is not None, "this prior has not learnt to fill in"
        levels = self.config.num_quantizers
        embedded_BTE = self.masks.weight[levels].expand(codes_BQT.shape[0], codes_BQT.shape[2], -1)
        for level in range(levels):
            known_BTE = self.embedding(codes_BQT[:, level] + self._rows * level)
            masked_BT1 = masked_BQT[:, level, :, None]
            embedded_BTE = embedded_BTE + torch.where(masked_BT1, self.masks.weight[level], known_BTE)
        hidden_BTE: Tensor = self.transformer(embedded_BTE, causal=False)
        return hidden_BTE

    def tokens(self, codes_BQT: Tensor, starts_B: Tensor | None = None) -> Tensor:
        """tokens_BLS: the codes (and special tokens) laid out in the order of the pattern."""
        if self.is_flat:
            return flatten_codes(codes_BQT)[:, None]
        batch, levels, _ = codes_BQT.shape
        tokens_BQS = self.pattern.lay_out(codes_BQT, self.unknown)
        level_Q1 = torch.arange(levels, device=codes_BQT.device)[:, None]
        before_QS = torch.arange(tokens_BQS.shape[2], device=codes_BQT.device) < level_Q1
        return torch.where(before_QS, self.first_tokens(batch, starts_B, codes_BQT.device), tokens_BQS)

    def _inputs(self, codes_BQT: Tensor, starts_B: Tensor | None) -> Tensor:
        """inputs_BLS of every step: the tokens of the step before."""
        tokens_BLS = self.tokens(codes_BQT, starts_B)
        first_BL1 = self.first_tokens(len(codes_BQT), starts_B, codes_BQT.device)
        return torch.cat((first_BL1, tokens_BLS[:, :, :-1]), dim=2)

    def first_tokens(self, batch: int, starts_B: Tensor | None, device: torch.device) -> Tensor:
        """first_BL1: the input of step 0: begin where a recording starts, unknown elsewhere."""
        slots = 1 if self.is_flat else self.config.num_quantizers
        begin_BL1 = torch.full((batch, slots, 1), self.begin, device=device)
        if starts_B is None:
            return begin_BL1
        return begin_BL1.masked_fill(~starts_B[:, None, None], self.unknown)

    def condition(self, conditions_BAT: Tensor) -> Tensor:
        """condition_BTE: what rows of the embedding of conditions (any integer type) add to a step's input.

        Row 0 adds nothing, so that zeros are the same as no condition.
        """
        assert self.conditions is not None, "this prior has learnt no conditions"
        condition_BTE: Tensor = self.conditions(conditions_BAT.long()).sum(dim=1)
        return condition_BTE

    def hidden(
        self, inputs_BLS: Tensor, cache: KVCache | None = None, condition_BSE: Tensor | None = None
    ) -> Tensor:
        """hidden_BSE of the steps whose inputs (tokens of the step before) are given.

        With a cache they follow the steps that it holds. condition_BSE, or condition_B1E for all steps, is
        added to their inputs.
        """
        _, slots, steps = inputs_BLS.shape
        device = inputs_BLS.device
        if self.is_flat:
            first = -1 if cache is None else cache.length - 1  # the input of step s is the code of step s - 1
            level_LS = torch.arange(first, first + steps, device=device) % self.config.num_quantizers
        else:
            level_LS = torch.arange(slots, device=device)[:, None]
        rows_BLS = inputs_BLS + self._rows * level_LS
        embedded_BSE = self.embedding(rows_BLS[:, 0])
        for slot in range(1, slots):
            embedded_BSE = embedded_BSE + self.embedding(rows_BLS[:, slot])
        if condition_BSE is not None:
            embedded_BSE = embedded_BSE + condition_BSE
        hidden_BSE: Tensor = self.transformer(embedded_BSE, cache)
        return hidden_BSE

    def step_logits(self, hidden_BE: Tensor, step: int) -> Tensor:
        """logits_BLK of the codes of step `step` (delay: every level; flatten: the level of the step), at the
        temperatures of their levels.
        """
        if self.is_flat:
            level = step % self.config.num_quantizers
            logits_BK = functional.linear(hidden_BE, self.heads_QKE[level]) / self.temperature_Q[level]
            return logits_BK[:, None]
        logits_BX = functional.linear(hidden_BE, self.heads_QKE.flatten(0, 1))
        logits_BQK = logits_BX.view(logits_BX.shape[0], self.config.num_quantizers, -1)
        return logits_BQK / self.temperature_Q[:, None]

    def logits(self, codes_BQT: Tensor, *, starts_B: Tensor | None = None) -> Tensor:
        """logits_QBTK of every code of `codes_BQT`, given those before it, at temperature 1."""
        batch, levels, frames = codes_BQT.shape
        hidden_BSE = self.hidden(self._inputs(codes_BQT.long(), starts_B))
        step_QT = self.pattern.step_index(frames, codes_BQT.device)
        hidden_QNE = torch.stack([hidden_BSE[:, step_QT[level]].flatten(0, 1) for level in range(levels)])
        return torch.bmm(hidden_QNE, self.heads_QKE.transpose(1, 2)).view(levels, batch, frames, -1)

    def _nats(self, hidden_BSE: Tensor, targets_BQT: Tensor) -> Tensor:
        """nats_BQ: negative log-likelihood of the targets, summed over frames; ignored ones count nothing."""
        levels = self.config.num_quantizers
        if self.is_flat:
            # Every step belongs to one level: only that level's head is applied to it.
            batch, _, frames = targets_BQT.shape
            hidden_QNE = hidden_BSE.view(batch, frames, levels, -1).permute(2, 0, 1, 3).flatten(1, 2)
            logits_QNK = torch.bmm(hidden_QNE, self.heads_QKE.transpose(1, 2))
            targets_QN = targets_BQT.transpose(0, 1).flatten(1)
            nats_QN = _nats_of(logits_QNK.flatten(0, 1), targets_QN.flatten())
            return nats_QN.view(levels, batch, frames).sum(dim=2).T
        targets_BQS = self.pattern.lay_out(targets_BQT, IGNORED)
        logits_BSX = functional.linear(hidden_BSE, self.heads_QKE.flatten(0, 1))
        nats = _nats_of(logits_BSX.view(-1, self.config.codebook_size), targets_BQS.transpose(1, 2).flatten())
        return nats.view(targets_BQS.shape[0], -1, levels).sum(dim=1)


def _nats_of(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    """nats_N of the targets; ignored ones count nothing."""
    if fusing.usable(logits_NK):
        from distill_ray.prior.training_kernels import nats

        return nats(logits_NK, targets_N)
    return functional.cross_entropy(logits_NK.float(), targets_N, ignore_index=IGNORED, reduction="none")
