"""The options of a search, which `tune` and `run` share, and what makes settings of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from distill_ray.cli import options
from distill_ray.config.health import HealthConfig
from distill_ray.config.sweep import SweepConfig, parse_list
from distill_ray.config.vqvae import SIZES, TrainingConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem

CodebookSizes = Annotated[
    str | None, options.from_setting(SweepConfig, "codebook_sizes", metavar="64,128,…", default=True)
]
RvqLevels = Annotated[
    str | None, options.from_setting(SweepConfig, "rvq_levels", metavar="2,4,…", default=True)
]
Trials = Annotated[int | None, options.from_setting(SweepConfig, "trials")]
MaxMinutes = Annotated[float | None, options.from_setting(SweepConfig, "max_minutes")]
MaxKbps = Annotated[float | None, options.from_setting(SweepConfig, "max_kbps", default=True)]
Objective = Annotated[str | None, options.from_setting(SweepConfig, "objective", default=True)]
Scheduler = Annotated[str | None, options.from_setting(SweepConfig, "scheduler", default=True)]
Search = Annotated[str | None, options.from_setting(SweepConfig, "search", default=True)]
Plan = Annotated[str | None, options.from_setting(SweepConfig, "plan", default=True)]
Finalists = Annotated[int | None, options.from_setting(SweepConfig, "finalists", default=True)]
GpusPerTrial = Annotated[float | None, options.from_setting(SweepConfig, "gpus_per_trial")]
WorkersPerTrial = Annotated[int | None, options.from_setting(SweepConfig, "workers_per_trial", default=True)]
MaxConcurrent = Annotated[int | None, options.from_setting(SweepConfig, "max_concurrent")]
HealthFloor = Annotated[float | None, options.from_setting(HealthConfig, "floor", default=True)]
HealthPatience = Annotated[int | None, options.from_setting(HealthConfig, "patience", default=True)]
HealthWarmup = Annotated[int | None, options.from_setting(HealthConfig, "warmup", default=True)]
NoHealthStop = Annotated[
    bool, typer.Option("--no-health-stop", help="Let trials whose codebooks collapse train to their end.")
]
Size = Annotated[
    str | None,
    typer.Option("--size", help="Size of the network.", metavar="|".join(SIZES), show_default=False),
]
Epochs = Annotated[int | None, options.from_setting(TrainingConfig, "epochs")]
BatchSize = Annotated[int | None, options.from_setting(TrainingConfig, "batch_size")]
Lr = Annotated[float | None, options.from_setting(TrainingConfig, "lr")]
CommitmentWeight = Annotated[float | None, options.from_setting(VQVAEConfig, "commitment_weight")]
Seed = Annotated[int | None, options.from_setting(TrainingConfig, "seed")]

_KEYS = {
    **{
        name: f"sweep.{name}"
        for name in (
            "codebook_sizes",
            "rvq_levels",
            "trials",
            "max_minutes",
            "max_kbps",
            "objective",
            "scheduler",
            "search",
            "plan",
            "finalists",
            "gpus_per_trial",
            "workers_per_trial",
            "max_concurrent",
        )
    },
    "health_floor": "health.floor",
    "health_patience": "health.patience",
    "health_warmup": "health.warmup",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "training.lr",
    "seed": "training.seed",
    "commitment_weight": "model.commitment_weight",
}
_LISTS = ("codebook_sizes", "rvq_levels")


def sweep_overrides(arguments: Mapping[str, Any]) -> dict[str, object]:
    """The settings that a command's `arguments` (by parameter name) give, by dotted key.

    Raises ConfigError naming every list that is none.
    """
    overrides: dict[str, object] = {}
    problems: list[Problem] = []
    for name, key in _KEYS.items():
        value = arguments[name]
        if name in _LISTS and value is not None:
            try:
                value = parse_list(name, value)
            except ConfigError as error:
                problems += error.problems
        overrides[key] = value
    if problems:
        raise ConfigError(problems)
    if arguments["no_health_stop"]:
        overrides["health.stop"] = False
    return options.given(overrides)
