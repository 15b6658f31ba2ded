"""From what the user said of a search to the settings of each of its trials, and to how many run at a time.

All trials have equally long epochs (the longest that a codec of the search needs), so that equal epochs are
equal steps, and an equal share of `--max-minutes`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from distill_ray.config.health import HealthConfig
from distill_ray.config.resolve import (
    CorpusFacts,
    Resolved,
    build_section,
    dotted,
    resolve_vqvae,
    steps_per_epoch,
)
from distill_ray.config.sweep import SweepConfig
from distill_ray.config.vqvae import LossConfig, VQTrainConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem
from distill_ray.events.records import Listener, ShownSetting
from distill_ray.tune.folder import common_settings
from distill_ray.tune.machine import Scale
from distill_ray.tune.ranking import missed_limit
from distill_ray.tune.space import (
    CODEBOOK_SIZE,
    COMMITMENT_WEIGHT,
    LR,
    RVQ_LEVELS,
    SIZE,
    final_round_size,
    first_round_size,
    search_space,
)
from distill_ray.tune.trial import TrialSpec, kbps, make_spec

TrialListener = Callable[[], AbstractContextManager[Listener]]
"""Makes the listener that keeps a trial's own logs, in the trial's process; it must be picklable."""

_EPOCH_STEPS = "training.min_epoch_steps"
_MINUTES = "training.max_minutes"
_SOME_CORPUS = CorpusFacts(file_count=1, train_seconds=1.0, sample_rate=None, channels=None)


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """A search's own settings, and what its trials share: `given` by dotted key."""

    sweep: SweepConfig
    health: HealthConfig
    given: Mapping[str, object]
    size: str | None

    @classmethod
    def of(cls, given: Mapping[str, object], size: str | None) -> SweepSettings:
        """Check all that can be checked without the corpus. Raises ConfigError with every problem."""
        own = {key.partition(".")[2]: value for key, value in given.items() if key.startswith("sweep.")}
        shared = {key: value for key, value in given.items() if not key.startswith("sweep.")}
        shared.setdefault("health.stop", True)
        problems: list[Problem] = []
        sweep = SweepConfig()
        try:
            sweep = build_section(SweepConfig, own)
        except ConfigError as error:
            problems += error.problems
        problems += _searched_twice(shared, size, sweep)
        searched = search_space(sweep)
        shared = {
            key: value for key, value in shared.items() if key not in {CODEBOOK_SIZE, RVQ_LEVELS, *searched}
        }
        try:
            for codec in _corners(sweep):
                _resolve(codec, shared, size, _SOME_CORPUS, accelerator=False, workers=1)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        health = build_section(
            HealthConfig,
            {key.partition(".")[2]: value for key, value in shared.items() if key.startswith("health.")},
        )
        return cls(sweep=sweep, health=health, given=shared, size=size)

    @property
    def seed(self) -> int:
        seed = self.given.get("training.seed", 0)
        assert isinstance(seed, int)
        return seed


class TrialPlanner:
    """Makes the configuration of each trial; `facts` are those of the corpus.

    `said`: what the user chose, all that is given for a new search.
    Raises ConfigError where no codec of a new search can be within the rate limit.
    """

    def __init__(
        self,
        settings: SweepSettings,
        facts: CorpusFacts,
        scale: Scale,
        *,
        accelerator: bool,
        resumed: bool,
        said: frozenset[str],
    ) -> None:
        self._settings = settings
        self._said = said
        self._facts = facts
        self._accelerator = accelerator
        self._workers = scale.workers
        self._shared = dict(settings.given)
        minutes = settings.sweep.max_minutes
        if minutes is not None and not resumed:  # a resumed search has recorded its share
            waves = _waves(settings.sweep, scale.concurrent)
            own = self._shared.get(_MINUTES)
            assert own is None or isinstance(own, int | float)
            self._shared[_MINUTES] = min(minutes / waves, own or math.inf)
        codecs = [self._resolve(codec).config for codec in _corners(settings.sweep)]
        if not resumed:
            _check_rates([codec.model for codec in codecs], settings.sweep)
        self._shared[_EPOCH_STEPS] = max(steps_per_epoch(codec, facts.train_seconds) for codec in codecs)

    def resolve(self, spec: TrialSpec, begun: Mapping[str, object] | None = None) -> Resolved[VQTrainConfig]:
        """The configuration of a trial; what the search chose counts as override.

        begun: what goes by size of a trial that has begun, by dotted key, which it keeps whatever a size
        means by now.
        """
        resolved = self._resolve(spec, begun)
        return replace(resolved, overrides=self._said | {CODEBOOK_SIZE, RVQ_LEVELS, *spec.overrides})

    def shared(self) -> dict[str, object]:
        """The settings that are the same in every trial."""
        searched = {CODEBOOK_SIZE, RVQ_LEVELS, *search_space(self._settings.sweep)}
        settings = common_settings(
            dotted(self._resolve(codec).config) for codec in _corners(self._settings.sweep)
        )
        return {key: value for key, value in settings.items() if key not in searched}

    @property
    def size(self) -> str:
        """The network's size; of the smallest where sizes are searched."""
        return self._resolve(_corners(self._settings.sweep)[0]).size

    @property
    def loss(self) -> LossConfig:
        """The weights of the losses."""
        return self._resolve(_corners(self._settings.sweep)[0]).config.loss

    def _resolve(self, spec: TrialSpec, begun: Mapping[str, object] | None = None) -> Resolved[VQTrainConfig]:
        return _resolve(
            spec,
            {**self._shared, **(begun or {})},
            self._settings.size,
            self._facts,
            accelerator=self._accelerator,
            workers=self._workers,
        )


_SHOWN = (
    "codebook_sizes",
    "rvq_levels",
    "sizes",
    "commitment_weights",
    "commitment_weight_range",
    "lrs",
    "lr_range",
    "trials",
    "scheduler",
    "max_minutes",
)
_SHOWN_SHARED = (
    COMMITMENT_WEIGHT,
    "training.epochs",
    _MINUTES,
    "training.batch_size",
    LR,
    "training.seed",
    "health.stop",
)


def shown_settings(
    sweep: SweepConfig, planner: TrialPlanner, source: Callable[[str], str]
) -> tuple[ShownSetting, ...]:
    """What a summary shows of a search: what is tried and what all trials share. `source`: of a key."""
    shared = planner.shared()
    values = {f"sweep.{key}": getattr(sweep, key) for key in _SHOWN}
    values |= {SIZE: None if sweep.sizes else planner.size}
    values |= {key: shared.get(key) for key in _SHOWN_SHARED}
    return tuple(
        ShownSetting(name=_label(key), value=_text(value), source=source(key))
        for key, value in values.items()
        if value not in (None, ())
    )


def _label(key: str) -> str:
    """What the table calls a setting; "stop" alone would say nothing."""
    return "health stop" if key == "health.stop" else key.partition(".")[2]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _resolve(
    spec: TrialSpec,
    shared: Mapping[str, object],
    size: str | None,
    facts: CorpusFacts,
    *,
    accelerator: bool,
    workers: int,
) -> Resolved[VQTrainConfig]:
    chosen = {CODEBOOK_SIZE: spec.codebook_size, RVQ_LEVELS: spec.rvq_levels, **spec.overrides}
    return resolve_vqvae(
        facts, overrides={**shared, **chosen}, size=size, accelerator=accelerator, workers=workers
    )


def _corners(sweep: SweepConfig) -> list[TrialSpec]:
    """A trial for each codec shape of the search, whatever the plan."""
    sizes: list[dict[str, object]] = [{SIZE: size} for size in sweep.sizes] or [{}]
    shapes = itertools.product(sweep.codebook_sizes, sweep.rvq_levels, sizes)
    return [make_spec("search", codes, (levels,), size) for codes, levels, size in shapes]


def _check_rates(codecs: Sequence[VQVAEConfig], sweep: SweepConfig) -> None:
    """Raise ConfigError where even the smallest codec is over the limit: hours later nothing could win."""
    rates = [kbps(codec.codebook_size, codec.num_quantizers, codec.frame_rate) for codec in codecs]
    least = missed_limit(rates, sweep)
    if least is not None:
        message = (
            f"{sweep.max_kbps:g} kbit/s is below every codec of the search: raise it to at least "
            f"{least:g}, or add lower --rvq-levels or smaller --codebook-sizes"
        )
        raise ConfigError([Problem("sweep.max_kbps", message, SweepConfig.flag("max_kbps"))])


def _waves(sweep: SweepConfig, concurrent: int) -> int:
    """How many times trials run side by side, as far as it is known beforehand."""
    return math.ceil(first_round_size(sweep) / concurrent) + math.ceil(final_round_size(sweep) / concurrent)


def _searched_twice(given: Mapping[str, object], size: str | None, sweep: SweepConfig) -> list[Problem]:
    flags = {CODEBOOK_SIZE: "--codebook-sizes", RVQ_LEVELS: "--rvq-levels"}
    problems = [
        Problem(key, f"a search chooses it; say which ones to try with {flag}", flag)
        for key, flag in flags.items()
        if key in given
    ]
    searched = [key for key in search_space(sweep) if key not in flags and (key in given)]
    problems += [
        Problem(key, "is one of the settings that the search tries; leave it out") for key in searched
    ]
    if size is not None and sweep.sizes:
        problems.append(Problem("sweep.sizes", "give either sizes to try or --size, not both", "--size"))
    return problems
