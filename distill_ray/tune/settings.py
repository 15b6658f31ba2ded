"""From what the user said of a search to the settings of each of its trials, and to how many run at a time.

All trials have equally long epochs (the longest that a codec of the search needs), so that equal epochs are
equal steps; with `--max-minutes` they are told how many (`step_budget.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace

from distill_ray.config.build import build_sections
from distill_ray.config.check import check_settings
from distill_ray.config.health import HealthConfig
from distill_ray.config.length import steps_per_epoch
from distill_ray.config.resolve import (
    KEPT_FLOOR,
    SIZE,
    CorpusFacts,
    MachineFacts,
    Resolved,
    dotted,
    resolve_vqvae,
)
from distill_ray.config.sweep import SweepConfig, with_search_defaults
from distill_ray.config.vqvae import LossConfig, VQTrainConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem
from distill_ray.events.records import Listener
from distill_ray.tune.folder import EPOCH_STEPS, common_settings
from distill_ray.tune.machine import TrialResources
from distill_ray.tune.ranking import missed_limit
from distill_ray.tune.space import (
    CODEBOOK_SIZE,
    COMMITMENT_WEIGHT,
    LR,
    RVQ_LEVELS,
    STRIDE,
    final_round_size,
    first_round_size,
)
from distill_ray.tune.trial import TrialSpec, kbps, make_spec

TrialListener = Callable[[], AbstractContextManager[Listener]]
"""Makes the listener that keeps a trial's own logs, in the trial's process; it must be picklable."""


_MINUTES = "training.max_minutes"
MAX_STEPS = "training.max_steps"
_SLACK = 2.0


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """A search's own settings, and what its trials share: `given` by dotted key."""

    sweep: SweepConfig
    health: HealthConfig
    given: Mapping[str, object]

    @classmethod
    def of(cls, given: Mapping[str, object]) -> SweepSettings:
        """Check all that can be checked without the corpus. Raises ConfigError with every problem."""
        check_settings("tune", given)
        given = {**_floors(given), **with_search_defaults(given)}
        sections = build_sections((SweepConfig, HealthConfig), {f"{HealthConfig.table}.stop": True, **given})
        sweep, health = sections[SweepConfig], sections[HealthConfig]
        shared = {
            key: value
            for key, value in given.items()
            if not key.startswith(f"{SweepConfig.table}.") and key not in sweep.searched
        }
        shared.setdefault("health.stop", True)
        return cls(sweep=sweep, health=health, given=shared)

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
        scale: TrialResources,
        *,
        resumed: bool,
        said: frozenset[str],
    ) -> None:
        self._settings = settings
        self._said = said
        self._facts = facts
        self._machine = MachineFacts(accelerator=scale.gpus > 0, workers=scale.workers)
        self._shared = dict(settings.given)
        minutes = settings.sweep.max_minutes
        if minutes is not None and not resumed:
            # Trials are told how many steps they make (`step_budget.py`); no trial may take far more time.
            waves = _waves(settings.sweep, scale.concurrent)
            own = self._shared.get(_MINUTES)
            assert own is None or isinstance(own, int | float)
            self._shared[_MINUTES] = min(_SLACK * minutes / waves, own or math.inf)
            self._shared[MAX_STEPS] = 0
        codecs = self._codecs()
        if not resumed:
            _check_rates([codec.config.model for codec in codecs], settings.sweep)
        self._shared[EPOCH_STEPS] = max(
            steps_per_epoch(codec.config, facts.train_seconds) for codec in codecs
        )
        self._corners = self._codecs()

    def resolve(self, spec: TrialSpec, begun: Mapping[str, object] | None = None) -> Resolved[VQTrainConfig]:
        """The configuration of a trial; what the search chose counts as override.

        begun: what goes by size of a trial that has begun, by dotted key, which it keeps whatever a size
        means by now.
        """
        chosen = {CODEBOOK_SIZE: spec.codebook_size, RVQ_LEVELS: spec.rvq_levels, **spec.overrides}
        given = {**self._shared, **(begun or {}), **chosen}
        resolved = resolve_vqvae(self._facts, overrides=given, machine=self._machine)
        return replace(resolved, overrides=self._said | frozenset(chosen))

    def shared(self) -> dict[str, object]:
        """The settings that are the same in every trial."""
        settings = common_settings(dotted(codec.config) for codec in self._corners)
        searched = self._settings.sweep.searched
        return {key: value for key, value in settings.items() if key not in searched}

    @property
    def steps_are_said(self) -> bool:
        """Whether the trials wait to be told how many steps they make."""
        return self._shared.get(MAX_STEPS) == 0

    @property
    def size(self) -> str:
        """The network's size; of the smallest where sizes are searched."""
        return self._corners[0].size

    @property
    def loss(self) -> LossConfig:
        """The weights of the losses."""
        return self._corners[0].config.loss

    def _codecs(self) -> list[Resolved[VQTrainConfig]]:
        """The configuration of each codec shape of the search, whatever the plan."""
        sweep = self._settings.sweep
        sizes: list[dict[str, object]] = [{SIZE: size} for size in sweep.sizes] or [{}]
        strides: list[dict[str, object]] = [{STRIDE: stride} for stride in sweep.strides] or [{}]
        shapes = itertools.product(sweep.codebook_sizes, sweep.rvq_levels, strides, sizes)
        return [
            self.resolve(make_spec("search", codes, (levels,), {**stride, **size}))
            for codes, levels, stride, size in shapes
        ]


_SHOWN = (
    "sweep.codebook_sizes",
    "sweep.rvq_levels",
    "sweep.strides",
    "sweep.sizes",
    "sweep.commitment_weights",
    "sweep.commitment_weight_range",
    "sweep.lrs",
    "sweep.lr_range",
    "sweep.trials",
    "sweep.scheduler",
    "sweep.max_minutes",
    SIZE,
    COMMITMENT_WEIGHT,
    "training.epochs",
    _MINUTES,
    "training.batch_size",
    LR,
    "training.seed",
    "health.stop",
    "health.kept_floor",
    "health.gain_floor",
)


def settings_of_search(sweep: SweepConfig, planner: TrialPlanner) -> dict[str, object]:
    """What a summary shows of a search, by dotted key: what is tried and what all trials share."""
    values = {f"{sweep.table}.{key}": value for key, value in asdict(sweep).items()} | planner.shared()
    values[SIZE] = None if sweep.sizes else planner.size
    own = sweep.max_minutes is None  # else the time of a trial is its share of that of the search
    return {key: values.get(key) for key in _SHOWN if own or key != _MINUTES}


def _floors(given: Mapping[str, object]) -> dict[str, object]:
    """The floor of the health rule that only codecs for generation have; the rule is the whole search's."""
    if given.get("model.purpose", "generation") != "generation":
        return {}
    return {f"{HealthConfig.table}.kept_floor": KEPT_FLOOR}


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
