"""The two training loops and what they stand on: torch, no Ray.

events ◄─ worker ◄─ loop ◄─ task ◄─┬─ vqvae (vq_batch, vq_objective, vq_codes, vq_validation)
                                   └─ prior
optimizer (muon), ema, budget, checkpoint; augment, capture and adversary serve vqvae
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.events.records import (
        PriorEpochMetrics,
        PriorStepMetrics,
        PriorTrainingCompleteEvent,
        TrainingCompleteEvent,
        VQEpochMetrics,
        VQStepMetrics,
    )
    from distill_ray.training.prior import train_prior
    from distill_ray.training.vqvae import train_vqvae
    from distill_ray.training.worker import LocalWorker, ProcessGroupWorker, StopFlag, Worker

_EVENTS = (
    "PriorEpochMetrics",
    "PriorStepMetrics",
    "PriorTrainingCompleteEvent",
    "TrainingCompleteEvent",
    "VQEpochMetrics",
    "VQStepMetrics",
)
_WORKERS = ("LocalWorker", "ProcessGroupWorker", "StopFlag", "Worker")

__all__ = [
    "LocalWorker",
    "PriorEpochMetrics",
    "PriorStepMetrics",
    "PriorTrainingCompleteEvent",
    "ProcessGroupWorker",
    "StopFlag",
    "TrainingCompleteEvent",
    "VQEpochMetrics",
    "VQStepMetrics",
    "Worker",
    "train_prior",
    "train_vqvae",
]

__getattr__ = lazy_exports(
    __name__,
    {
        **dict.fromkeys(_EVENTS, "distill_ray.events.records"),
        **dict.fromkeys(_WORKERS, f"{__name__}.worker"),
        "train_prior": f"{__name__}.prior",
        "train_vqvae": f"{__name__}.vqvae",
    },
)
