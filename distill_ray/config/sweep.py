"""Settings of a search over codecs (`distill-ray tune`): what is tried, how it is ranked, on what it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting
from distill_ray.config.vqvae import SIZES, TrainingConfig, VQVAEConfig
from distill_ray.errors import Problem

PLANS = ("depth", "grid")
OBJECTIVES = ("reconstruction", "prior-bits")


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Section):
    """A search. `lr_range` and `commitment_weight_range` are (low, high), drawn log-uniformly."""

    table: ClassVar[str] = "sweep"

    codebook_sizes: tuple[int, ...] = setting(
        (64, 128, 256, 512, 1024), "codebook sizes to try", flag="--codebook-sizes"
    )
    rvq_levels: tuple[int, ...] = setting((2, 4, 8), "RVQ depths to try", flag="--rvq-levels")
    commitment_weights: tuple[float, ...] = setting((), "commitment weights to try")
    lrs: tuple[float, ...] = setting((), "learning rates to try")
    sizes: tuple[str, ...] = setting((), "network sizes to try")
    commitment_weight_range: tuple[float, ...] = setting((), "commitment weights to draw from: low, high")
    lr_range: tuple[float, ...] = setting((), "learning rates to draw from: low, high")
    plan: str = setting(
        "depth",
        "depth: one run a codebook size scored at every depth, finalists retrained; grid: every pair",
        flag="--plan",
        choices=PLANS,
    )
    search: str = setting(
        "grid", "how settings are chosen", flag="--search", choices=("grid", "random", "optuna")
    )
    trials: int | None = setting(None, "most trials of the search", flag="--trials", low=1)
    max_minutes: float | None = setting(
        None, "about how long the whole search may take, shared by its trials", flag="--max-minutes", above=0.0
    )
    max_kbps: float = setting(
        6.0, "highest bit rate (nominal) that may win", flag="--max-kbps", above=0.0
    )
    objective: str = setting(
        "reconstruction", "what the winner is best in", flag="--objective", choices=OBJECTIVES
    )
    scheduler: str = setting(
        "none", "asha ends trials early that lag behind others", flag="--scheduler", choices=("none", "asha")
    )
    finalists: int = setting(2, "candidates retrained at their own depth (plan depth)", low=1)
    gpus_per_trial: float | None = setting(
        None, "GPUs of a trial; a part lets trials share one, 0 trains on CPUs", flag="--gpus-per-trial", low=0.0
    )
    workers_per_trial: int = setting(1, "DDP workers of a trial", flag="--workers-per-trial", low=1)
    max_concurrent: int | None = setting(None, "most trials at once", flag="--max-concurrent", low=1)
