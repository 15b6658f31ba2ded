"""Settings of a search over codecs (`distill-ray tune`): what is tried, how it is ranked, on what it runs.

`tune/space.py` makes trials of them, `tune/ranking.py` says which is best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from distill_ray.config.setting import Section, setting
from distill_ray.config.vqvae import SIZES, SizeConfig, TrainingConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem

PLANS = ("depth", "grid")
OBJECTIVES = ("generation", "reconstruction", "prior-bits")
GENERATION_SIZES, GENERATION_DEPTHS, GENERATION_STRIDES = (256, 512, 1024), (2, 3, 4), (2, 4, 8)
"""What a search for generation tries where nothing is said: at any sample rate, strides of 2, 4 and 8 give
about 43, 22 and 11 code frames a second.
"""
RESOURCES = ("sweep.gpus_per_trial", "sweep.workers_per_trial", "sweep.max_concurrent")
"""On how much of a machine a search runs, not what comes out: these may change when it goes on."""


def _listed(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Section):
    """A search. `lr_range` and `commitment_weight_range` are (low, high), drawn log-uniformly.

    Lists of values come out ascending and without repeats, whatever order they were given in.
    """

    table: ClassVar[str] = "sweep"

    codebook_sizes: tuple[int, ...] = setting(
        (64, 128, 256, 512, 1024),
        f"codebook sizes to try; for generation {_listed(GENERATION_SIZES)}",
        flag="--codebook-sizes",
        replaces="model.codebook_size",
    )
    rvq_levels: tuple[int, ...] = setting(
        (2, 4, 8),
        f"RVQ depths to try; for generation {_listed(GENERATION_DEPTHS)}",
        flag="--rvq-levels",
        replaces="model.num_quantizers",
    )
    strides: tuple[int, ...] = setting(
        (),
        f"STFT frames for one code frame to try; for generation {_listed(GENERATION_STRIDES)}: some 43, 22 "
        "and 11 code frames a second",
        flag="--strides",
        replaces="model.stride",
    )
    commitment_weights: tuple[float, ...] = setting((), "commitment weights to try")
    lrs: tuple[float, ...] = setting((), "learning rates to try")
    sizes: tuple[str, ...] = setting((), "network sizes to try")
    commitment_weight_range: tuple[float, ...] = setting((), "commitment weights to draw from: low, high")
    lr_range: tuple[float, ...] = setting((), "learning rates to draw from: low, high")
    plan: str = setting(
        "depth",
        "what is trained; depth: each codebook size once, scored at every depth, then finalists; grid: every "
        "pair",
        flag="--plan",
        choices=PLANS,
    )
    search: str = setting(
        "grid",
        "how trials are chosen from the settings to try",
        flag="--search",
        choices=("grid", "random", "optuna"),
    )
    trials: int | None = setting(
        None, "most trials of the first round, finalists not counted", flag="--trials", auto=True, low=1
    )
    max_minutes: float | None = setting(
        None,
        "time budget of the whole search in minutes, which its trials share",
        flag="--max-minutes",
        replaces="training.max_minutes",
        above=0.0,
    )
    max_kbps: float = setting(
        6.0, "highest bit rate of a winner in kbit/s (nominal)", flag="--max-kbps", above=0.0
    )
    objective: str = setting(
        "reconstruction",
        "measure by which trials are ranked; generation: the judge's distance of what a short prior on each "
        "codec generates, the default for --purpose generation",
        flag="--objective",
        auto=True,
        choices=OBJECTIVES,
    )
    decoded_margin: float = setting(
        0.5,
        "for generation: how much larger than the least the distance of decoded held-out audio may be",
        flag="--decoded-margin",
        low=0.0,
    )
    scheduler: str = setting(
        "none",
        "which trials end early; asha: those that lag behind others",
        flag="--scheduler",
        choices=("none", "asha"),
    )
    finalists: int = setting(
        2, "candidates that plan depth trains again, each at its own depth", flag="--finalists", low=1
    )
    gpus_per_trial: float | None = setting(
        None,
        "GPUs of a trial; below 1: trials share a GPU; 0: trials train on CPUs",
        flag="--gpus-per-trial",
        auto=True,
        low=0.0,
    )
    workers_per_trial: int = setting(
        1, "training processes (DDP) of a trial", flag="--workers-per-trial", low=1
    )
    max_concurrent: int | None = setting(
        None, "most trials that run at once", flag="--max-concurrent", auto=True, low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("codebook_sizes", "rvq_levels", "strides", "commitment_weights", "lrs"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        object.__setattr__(self, "sizes", tuple(size for size in SIZES if size in self.sizes))

    @property
    def searched(self) -> frozenset[str]:
        """The settings that each trial gets from the search, by dotted key."""
        return frozenset(
            f"{section.table}.{field}" for name, section, field in (*_LISTS, *_RANGES) if getattr(self, name)
        )

    def cross_checks(self) -> Iterator[Problem]:
        for name in ("codebook_sizes", "rvq_levels"):
            if not getattr(self, name):
                yield self.problem(name, "give at least one value")
        for name, section, field in _LISTS:
            for value in dict.fromkeys(getattr(self, name)):
                yield from self._refused(name, section, field, value)
        for name, section, field in _RANGES:
            yield from self._range_problems(name, section, field)
        if self.objective == "generation" and self.workers_per_trial > 1:
            yield self.problem(
                "workers_per_trial",
                "with objective generation a trial is one process, which also trains its prior and "
                "generates; leave it out, or use --objective reconstruction",
            )
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


def with_search_defaults(given: Mapping[str, object]) -> dict[str, object]:
    """`given` with what a search takes by its purpose where nothing is said: objective, sizes,
    depths and strides.
    """
    values = dict(given)
    generation = given.get("model.purpose", "generation") == "generation"
    if generation and given.get("sweep.workers_per_trial", 1) == 1:
        values.setdefault("sweep.objective", "generation")
    if values.get("sweep.objective") != "generation":
        return values
    values.setdefault("sweep.codebook_sizes", GENERATION_SIZES)
    values.setdefault("sweep.rvq_levels", GENERATION_DEPTHS)
    if generation and not given.keys() & {"model.stride", "model.hop"}:
        values.setdefault("sweep.strides", GENERATION_STRIDES)
    return values


# Lists and ranges, with the setting of a trial that their values are given to.
_LISTS: tuple[tuple[str, type[Section], str], ...] = (
    ("codebook_sizes", VQVAEConfig, "codebook_size"),
    ("rvq_levels", VQVAEConfig, "num_quantizers"),
    ("strides", VQVAEConfig, "stride"),
    ("commitment_weights", VQVAEConfig, "commitment_weight"),
    ("lrs", TrainingConfig, "lr"),
    ("sizes", SizeConfig, "size"),
)
_RANGES: tuple[tuple[str, type[Section], str], ...] = (
    ("commitment_weight_range", VQVAEConfig, "commitment_weight"),
    ("lr_range", TrainingConfig, "lr"),
)
_NEEDED: dict[str, dict[str, Any]] = {"training": {"epochs": 1}}
