"""The held-out measure of a codec in training: the weighted reconstruction loss over fixed windows.

Shapes: B windows, C channels, T samples, Q RVQ levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import PCM_SCALE, AudioStore, iter_windows
from distill_ray.training.worker import Worker
from distill_ray.vqvae import VQVAE, CodeAgreement, CodecLoss, code_agreement
from distill_ray.vqvae.agreement import AGREEMENT_SECONDS, AGREEMENT_WINDOWS, kept_at_quarter

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class HeldOutScore:
    """The weighted loss and each of its terms, means over windows."""

    loss: float
    terms: dict[str, float]


class HeldOut:
    """Windows of held-out files, spread over all of them and shared by the ranks."""

    def __init__(self, store: AudioStore, config: VQTrainConfig, worker: Worker) -> None:
        self._store = store
        self._model = config.model
        self._worker = worker
        self._window = config.window_samples
        most = max(1, round(config.training.val_seconds / config.training.window_seconds))
        windows = list(iter_windows(store.lengths_N, config.window_samples, most))
        self._own = windows[worker.rank :: worker.world_size]

    def score(self, model: VQVAE, loss: CodecLoss, *, bf16: bool) -> tuple[float, dict[str, float]]:
        """The weighted loss and each of its terms at full depth, means over windows (collective)."""
        full = self.score_depths(model, loss, (), bf16=bf16)[model.config.num_quantizers]
        return full.loss, full.terms

    @torch.no_grad()
    def score_depths(
        self, model: VQVAE, loss: CodecLoss, depths: Iterable[int], *, bf16: bool
    ) -> dict[int, HeldOutScore]:
        """The score at full depth and with the first levels only, for each of `depths` (collective).

        Windows are encoded once; each further depth costs a pass through the decoder and the loss.
        """
        device, full = self._worker.device, model.config.num_quantizers
        levels = sorted({*depths, full})
        sums = torch.zeros(len(levels), len(loss.scored) + 1, dtype=torch.float64, device=device)
        for audio_BCT in self.windows():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                latent_BFD = model.latents(audio_BCT)
                output = model.reconstruct(latent_BFD)
                for row, depth in enumerate(levels):
                    decoded = output.decoded
                    if depth < full:
                        quantised_BFL = model.quantizer.decode(output.codes_BQT[:, :depth])
                        decoded = model.compared(quantised_BFL, latent_BFD)
                    terms = loss(decoded, audio_BCT)
                    means = [loss.total(terms), *(terms[name] for name in loss.scored)]
                    sums[row] += torch.stack([value.double() for value in means]) * len(audio_BCT)
        count = self._worker.all_reduce(torch.tensor(float(len(self._own)), device=device)).item()
        rows = (self._worker.all_reduce(sums) / count).tolist()
        return {
            depth: HeldOutScore(loss=total, terms=dict(zip(loss.scored, each, strict=True)))
            for depth, (total, *each) in zip(levels, rows, strict=True)
        }

    @torch.no_grad()
    def code_agreement(self, weights: Mapping[str, Tensor]) -> CodeAgreement | None:
        """How far the codes of a codec with `weights` agree under changes that nobody hears, on rank 0."""
        if self._worker.rank != 0:
            return None
        model = VQVAE(self._model).to(self._worker.device).eval()
        model.load_state_dict(weights)
        return code_agreement(model, self._excerpts())

    def kept_codes(self, model: VQVAE) -> tuple[float, ...]:
        """Each level's share of codes that a shift by a quarter of a frame keeps, as rank 0 measures it
        (collective); empty where nothing is audible.
        """
        found_1Q = torch.full((1 + model.config.num_quantizers,), 0.0, device=self._worker.device)
        if self._worker.rank == 0 and (kept := kept_at_quarter(model, self._excerpts())):
            found_1Q.copy_(torch.tensor([1.0, *kept]))
        measured, *shares = self._worker.all_reduce(found_1Q).tolist()
        return tuple(shares) if measured else ()

    def _excerpts(self) -> Iterator[Tensor]:
        hop = self._model.frame_hop
        samples = max(2, round(AGREEMENT_SECONDS * self._model.frame_rate)) * hop + hop // 2
        for window in iter_windows(self._store.lengths_N, samples, AGREEMENT_WINDOWS):
            file_1, start_1, valid_1 = np.array([[window.file], [window.start], [window.valid]], np.int64)
            yield self._store.gather(file_1, start_1, samples, valid_1).float() / PCM_SCALE

    def windows(self) -> Iterator[Tensor]:
        """This rank's windows in batches [B, C, T]; silent past a file's end, where looping would click."""
        for first in range(0, len(self._own), _BATCH):
            part = self._own[first : first + _BATCH]
            file_B, start_B, valid_B = np.array([(w.file, w.start, w.valid) for w in part], np.int64).T
            yield self._store.gather(file_B, start_B, self._window, valid_B).float() / PCM_SCALE
