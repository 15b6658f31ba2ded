"""Settings of a search over codecs (`distill-ray tune`): what is tried, how it is ranked, on what it runs.

`tune/space.py` makes trials of them, `tune/ranking.py` says which is best.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from distill_ray.config.setting import Section, setting
from distill_ray.config.vqvae import SIZES, TrainingConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem

PLANS = ("depth", "grid")
OBJECTIVES = ("reconstruction", "prior-bits")
RESOURCES = ("sweep.gpus_per_trial", "sweep.workers_per_trial", "sweep.max_concurrent")
"""On how much of a machine a search runs, not what comes out: these may change when it goes on."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Section):
    """A search. `lr_range` and `commitment_weight_range` are (low, high), drawn log-uniformly.

    Lists of values come out ascending and without repeats, whatever order they were given in.
    """

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
        "train once a codebook size, scored at every depth, and then finalists (depth), or every pair (grid)",
        flag="--plan",
        choices=PLANS,
    )
    search: str = setting(
        "grid", "how settings are chosen", flag="--search", choices=("grid", "random", "optuna")
    )
    trials: int | None = setting(
        None, "most trials of the first round; finalists come on top", flag="--trials", low=1
    )
    max_minutes: float | None = setting(
        None,
        "about how long the whole search may take, shared by its trials",
        flag="--max-minutes",
        above=0.0,
    )
    max_kbps: float = setting(6.0, "highest bit rate (nominal) that may win", flag="--max-kbps", above=0.0)
    objective: str = setting(
        "reconstruction", "what the winner is best in", flag="--objective", choices=OBJECTIVES
    )
    scheduler: str = setting(
        "none", "end trials early that lag behind others (asha)", flag="--scheduler", choices=("none", "asha")
    )
    finalists: int = setting(
        2, "candidates retrained at their own depth (plan depth)", flag="--finalists", low=1
    )
    gpus_per_trial: float | None = setting(
        None,
        "GPUs of a trial; a part lets trials share one, 0 trains on CPUs",
        flag="--gpus-per-trial",
        low=0.0,
    )
    workers_per_trial: int = setting(1, "DDP workers of a trial", flag="--workers-per-trial", low=1)
    max_concurrent: int | None = setting(None, "most trials at once", flag="--max-concurrent", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("codebook_sizes", "rvq_levels", "commitment_weights", "lrs"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        object.__setattr__(self, "sizes", tuple(size for size in SIZES if size in self.sizes))

    def cross_checks(self) -> Iterator[Problem]:
        for name in ("codebook_sizes", "rvq_levels"):
            if not getattr(self, name):
                yield self.problem(name, "give at least one value")
        for name, section, field in _LISTS:
            for value in dict.fromkeys(getattr(self, name)):
                yield from self._refused(name, section, field, value)
        for size in dict.fromkeys(self.sizes):
            if size not in SIZES:
                yield self.problem("sizes", f"{size!r} is not one of {', '.join(SIZES)}")
        for name, section, field in _RANGES:
            yield from self._range_problems(name, section, field)
        if self.search != "grid" and self.trials is None and (self.lr_range or self.commitment_weight_range):
            yield self.problem("trials", f"say how many trials to draw from a range (--search {self.search})")
        yield from self._gpu_problems()

    def _refused(self, name: str, section: type[Section], field: str, value: object) -> Iterator[Problem]:
        """What the setting that a trial gets `value` for has against it."""
        try:
            section(**{**_NEEDED.get(section.table, {}), field: value})
        except ConfigError as error:
            for problem in error.problems:
                yield self.problem(name, problem.message)

    def _range_problems(self, name: str, section: type[Section], field: str) -> Iterator[Problem]:
        ends = getattr(self, name)
        if not ends:
            return
        values = name.removesuffix("_range") + "s"
        if getattr(self, values):
            yield self.problem(name, f"give either a range or {self.table}.{values}, not both")
        if self.search == "grid":
            yield self.problem(name, "a grid has no ranges; use --search random or optuna, or list values")
        if len(ends) != 2 or not 0.0 < ends[0] < ends[1]:
            given = ", ".join(f"{end:g}" for end in ends)
            yield self.problem(name, f"({given}) is not two positive numbers, the lower one first")
            return
        for end in ends:
            yield from self._refused(name, section, field, end)

    def _gpu_problems(self) -> Iterator[Problem]:
        gpus, workers = self.gpus_per_trial, self.workers_per_trial
        if gpus is None:
            return
        if workers > 1 and gpus % workers:
            yield self.problem(
                "gpus_per_trial",
                f"{gpus:g} for {workers} workers: NCCL refuses two ranks on one GPU; give {workers}, "
                "or 0 for CPUs, or --workers-per-trial 1",
            )
        elif gpus > 1 and gpus % 1:
            yield self.problem("gpus_per_trial", f"{gpus:g} is neither a part of one GPU nor a whole number")


# Lists and ranges, with the setting of a trial that their values are given to.
_LISTS: tuple[tuple[str, type[Section], str], ...] = (
    ("codebook_sizes", VQVAEConfig, "codebook_size"),
    ("rvq_levels", VQVAEConfig, "num_quantizers"),
    ("commitment_weights", VQVAEConfig, "commitment_weight"),
    ("lrs", TrainingConfig, "lr"),
)
_RANGES: tuple[tuple[str, type[Section], str], ...] = (
    ("commitment_weight_range", VQVAEConfig, "commitment_weight"),
    ("lr_range", TrainingConfig, "lr"),
)
_NEEDED: dict[str, dict[str, Any]] = {"training": {"epochs": 1}}


def parse_list(name: str, text: str) -> tuple[Any, ...]:
    """The value of list setting `name` of SweepConfig from "64,128,256"; spaces are allowed.

    Raises ConfigError with the flag of the setting.
    """
    kind = typing.get_args(typing.get_type_hints(SweepConfig)[name])[0]
    words = [word.strip() for word in text.split(",")]
    try:
        return tuple(kind(word) for word in words)
    except ValueError:
        what = {int: "whole numbers such as 64,128", float: "numbers such as 0.001,0.01"}[kind]
        key = f"{SweepConfig.table}.{name}"
        raise ConfigError(
            [Problem(key, f"{text!r} is not a list of {what}", SweepConfig.flag(name))]
        ) from None
