"""The held-out measure of a codec in training: the weighted reconstruction loss over fixed windows.

Shapes: B windows, C channels, T samples.
"""

from __future__ import annotations

import numpy as np
import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import PCM_SCALE, AudioStore, iter_windows
from distill_ray.training.worker import Worker
from distill_ray.vqvae import VQVAE, ReconstructionLoss

RECONSTRUCTION_TERMS = ("mel", "complex_stft", "waveform")
_BATCH = 16


class HeldOut:
    """Windows of held-out files, spread over all of them and shared by the ranks."""

    def __init__(self, store: AudioStore, config: VQTrainConfig, worker: Worker) -> None:
        self._store = store
        self._worker = worker
        self._window = config.window_samples
        most = max(1, round(config.training.val_seconds / config.training.window_seconds))
        windows = list(iter_windows(store.lengths_N, config.window_samples, most))
        self._own = windows[worker.rank :: worker.world_size]

    @torch.no_grad()
    def score(self, model: VQVAE, loss: ReconstructionLoss, *, bf16: bool) -> tuple[float, dict[str, float]]:
        """The weighted loss and each of its terms at full depth, means over windows (collective)."""
        device = self._worker.device
        sums = torch.zeros(len(RECONSTRUCTION_TERMS) + 2, dtype=torch.float64, device=device)
        for first in range(0, len(self._own), _BATCH):
            part = self._own[first : first + _BATCH]
            file_B, start_B, valid_B = np.array([(w.file, w.start, w.valid) for w in part], np.int64).T
            # Silent past a file's end: looping it would put a click into the measure.
            pcm_BCT = self._store.gather(file_B, start_B, self._window, valid_B)
            audio_BCT = pcm_BCT.float() / PCM_SCALE
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                terms = loss(model(audio_BCT).audio_BCT, audio_BCT)
            row = [loss.total(terms), *(terms[name] for name in RECONSTRUCTION_TERMS)]
            means = torch.stack([value.double() for value in row])
            sums += torch.cat([means * len(part), means.new_tensor([len(part)])])
        total, *each, count = self._worker.all_reduce(sums).tolist()
        return total / count, {
            name: value / count for name, value in zip(RECONSTRUCTION_TERMS, each, strict=True)
        }
