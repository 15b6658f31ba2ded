"""Codebooks in training: counts of use, EMA updates, re-seeding of dead codes, alike on every rank.

`vqvae/quantizer.py` has the maths; here the figures cross ranks and the optimizer and the weight average
learn of replaced codes.

Shapes: B windows of this rank, Q RVQ levels, F frames, K codes, N vectors of this rank, D code dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.training.ema import WeightAverage
from distill_ray.training.optimizer import Optimizer
from distill_ray.training.worker import Worker
from distill_ray.vqvae import VQVAE, VQVAEOutput

_STATE = ("epoch_counts_QK", "previous_counts_QK", "recent_counts_QK")


class CodeKeeper:
    """Counts of this rank in this epoch, in the one before, and since the last look for dead codes."""

    def __init__(
        self,
        model: VQVAE,
        config: VQTrainConfig,
        worker: Worker,
        optimizer: Optimizer,
        average: WeightAverage[VQVAE],
    ) -> None:
        self._quantizer = model.quantizer
        self._averaged = average.module.quantizer
        self._learns_by_ema = config.model.codebook_learning == "ema"
        self._reseeds = config.model.reseed_threshold > 0.0 and config.model.codebook_learning != "kmeans"
        self._every = config.training.reseed_every
        self._seed = config.training.seed
        self._worker = worker
        self._optimizer = optimizer
        shape_QK = (config.model.num_quantizers, config.model.codebook_size)
        self.epoch_counts_QK = torch.zeros(shape_QK, device=worker.device)
        self.previous_counts_QK = torch.zeros(shape_QK, device=worker.device)
        self.recent_counts_QK = torch.zeros(shape_QK, device=worker.device)
        self.reseeded = 0

    @torch.no_grad()
    def follow(self, step: int, output: VQVAEOutput, sound: Tensor) -> None:
        """Take in the codes of a step; where `sound` (a scalar) is false they are left out."""
        counts_QK = torch.where(sound, self._quantizer.counts(output.codes_BQT, output.used_QN), 0.0)
        if self._learns_by_ema:
            # A NaN times a share of zero would still be a NaN.
            sums_QKD = torch.where(sound, self._quantizer.ema_statistics(output), 0.0)
            joined_QKE = self._worker.all_reduce(torch.cat([counts_QK[..., None], sums_QKD], dim=-1))
            self._quantizer.ema_update(joined_QKE[..., 0], joined_QKE[..., 1:], sound)
        self.epoch_counts_QK += counts_QK
        self.recent_counts_QK += counts_QK
        if self._reseeds and (step + 1) % self._every == 0:
            self._reseed(step, output.residuals_QND, sound)

    def epoch_counts(self, *, with_previous: bool = False) -> Tensor:
        """Counts [Q, K] of all ranks since the epoch began, or since the one before began (collective)."""
        counts_QK = self.epoch_counts_QK.clone()
        return self._worker.all_reduce(counts_QK + self.previous_counts_QK if with_previous else counts_QK)

    def new_epoch(self) -> None:
        self.previous_counts_QK.copy_(self.epoch_counts_QK)
        self.epoch_counts_QK.zero_()
        self.reseeded = 0

    def _reseed(self, step: int, residuals_QND: Tensor, sound: Tensor) -> None:
        counts_QK = self._worker.all_reduce(self.recent_counts_QK.clone())
        self.recent_counts_QK.zero_()
        # The vectors of an unsound step may be NaN, which no later step would heal.
        dead_QK = self._quantizer.dead_mask(counts_QK) & sound
        candidates_QND = self._worker.all_gather(residuals_QND.transpose(0, 1).contiguous()).transpose(0, 1)
        generator = torch.Generator().manual_seed((self._seed << 32) + step)
        self._quantizer.reseed(dead_QK, candidates_QND, generator)
        codebooks = self._quantizer.codebooks_QKD
        self._optimizer.forget_rows(codebooks, dead_QK)
        # The average of a dead code and of the one in its place is neither.
        averaged = self._averaged.codebooks_QKD
        averaged.copy_(torch.where(dead_QK[..., None], codebooks, averaged))
        self.reseeded += int(dead_QK.sum())

    def consolidate(self) -> None:
        """Move the sums of all ranks to rank 0, whose state is what a checkpoint keeps (collective)."""
        for name in _STATE:
            total = self._worker.all_reduce(getattr(self, name))
            if self._worker.rank != 0:
                total.zero_()

    def state_dict(self) -> dict[str, object]:
        return {"reseeded": self.reseeded, **{name: getattr(self, name) for name in _STATE}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """The state of rank 0; other ranks go on from nothing."""
        self.reseeded = int(state["reseeded"])
        for name in _STATE:
            getattr(self, name).copy_(state[name] if self._worker.rank == 0 else 0)
