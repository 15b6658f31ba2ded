"""The held-out measure of a codec in training: the weighted reconstruction loss over fixed windows.

Shapes: B windows, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import AudioStore, iter_windows
from distill_ray.training.vq_batch import PCM_SCALE
from distill_ray.training.worker import Worker
from distill_ray.vqvae import VQVAE, ReconstructionLoss

RECONSTRUCTION_TERMS = ("mel", "complex_stft", "waveform")
_BATCH = 16

Item = TypeVar("Item")


class HeldOut:
    """Windows of held-out files, spread over all of them and shared by the ranks."""

    def __init__(self, store: AudioStore, config: VQTrainConfig, worker: Worker) -> None:
        self._store = store
        self._worker = worker
        self._window = config.window_samples
        windows = list(iter_windows(store.lengths_N, config.window_samples))
        most = max(1, round(config.training.val_seconds / config.training.window_seconds))
        self._own = spread(windows, most)[worker.rank :: worker.world_size]

    @torch.no_grad()
    def score(self, model: VQVAE, loss: ReconstructionLoss, *, bf16: bool) -> tuple[float, dict[str, float]]:
        """The weighted loss and each of its terms at full depth, means over windows (collective)."""
        device = self._worker.device
        sums = torch.zeros(len(RECONSTRUCTION_TERMS) + 2, dtype=torch.float64, device=device)
        for first in range(0, len(self._own), _BATCH):
            part = self._own[first : first + _BATCH]
            file_B = torch.tensor([window.file for window in part])
            start_B = torch.tensor([window.start for window in part])
            valid_B = torch.tensor([window.length for window in part], device=device)
            audio_BCT = self._store.gather(file_B, start_B, self._window).float() * PCM_SCALE
            # A file's last window is silent past its end: looping it would put a click into the measure.
            audio_BCT *= torch.arange(self._window, device=device) < valid_B[:, None, None]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                terms = loss(model(audio_BCT).audio_BCT, audio_BCT)
            row = [loss.total(terms), *(terms[name] for name in RECONSTRUCTION_TERMS)]
            means = torch.stack([value.double() for value in row])
            sums += torch.cat([means * len(part), means.new_tensor([len(part)])])
        total, *each, count = self._worker.all_reduce(sums).tolist()
        return total / count, {
            name: value / count for name, value in zip(RECONSTRUCTION_TERMS, each, strict=True)
        }


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly spaced, the first among them."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
