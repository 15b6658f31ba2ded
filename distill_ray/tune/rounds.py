"""Which trial of a search comes next: the rounds of `tune/space.py`, or what Optuna proposes in the first.

Pure but for Optuna's state; the same records give the same trials, so a resumed search goes on where it was.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import InstallationError
from distill_ray.tune.space import (
    CODEBOOK_SIZE,
    RVQ_LEVELS,
    LogUniform,
    final_round,
    first_round,
    first_round_size,
    search_space,
    shallower_round,
    spec_of,
)
from distill_ray.tune.trial import FINISHED, TrialRecord, TrialSpec
from distill_ray.vqvae.health import HealthRule

Objective = Callable[[TrialRecord], float | None]

_REPEATS = 50  # proposals in a row that were there already, after which Optuna has seen its space


class Rounds:
    """The trials of a search, one after the other. `records`: what an earlier part of it left."""

    def __init__(
        self,
        sweep: SweepConfig,
        rule: HealthRule,
        *,
        seed: int,
        records: Sequence[TrialRecord],
        objective: Objective,
    ) -> None:
        self._sweep = sweep
        self._rule = rule
        finished = [record for record in records if record.state in FINISHED]
        done = {record.spec.id for record in finished}
        first, self._optuna = first_round(sweep, seed=seed), None
        if sweep.search == "optuna":
            self._optuna = _Optuna(sweep, seed, finished, objective)
            first = tuple(record.spec for record in records if record.spec.round == "search")
        if sweep.max_minutes is not None and sweep.search == "grid":
            first = spread(first)  # what is left out for lack of time lies between those that run
        self._first = tuple(spec.id for spec in first)
        self._has_finals = True
        self._waiting = deque(spec for spec in first if spec.id not in done)

    def next(self, finished: Sequence[TrialRecord], live: Collection[str]) -> TrialSpec | None:
        """The next trial; None while trials of the round are `live`, and when there is nothing left."""
        if not self._waiting and self._optuna is not None:
            proposed = self._optuna.next(finished, live)
            if proposed is not None:
                return proposed
        if not self._waiting and not live:
            self._waiting.extend(self._later(finished))
        return self._waiting.popleft() if self._waiting else None

    def has_more(self, finished: Sequence[TrialRecord]) -> bool:
        """Whether there is anything to run, while nothing runs."""
        if self._waiting or (self._optuna is not None and self._optuna.wants_more(finished)):
            return True
        return bool(self._later(finished))

    def take_only(self, trials: int) -> None:
        """Leave out what the first round has beyond so many trials."""
        if self._optuna is not None:
            self._optuna.take_only(trials)
            return
        left_out = set(self._first[trials:])
        self._waiting = deque(
            spec for spec in self._waiting if spec.round != "search" or spec.id not in left_out
        )

    def leave_out_finals(self) -> None:
        """Choose among the trials as they were trained."""
        self._has_finals = False
        self._waiting = deque(spec for spec in self._waiting if spec.round != "final")

    def ended(self, record: TrialRecord) -> None:
        """A trial is done, finished or not."""
        if self._optuna is not None:
            self._optuna.ended(record)

    def _later(self, finished: Sequence[TrialRecord]) -> tuple[TrialSpec, ...]:
        later = shallower_round(finished, self._sweep)
        return later or (final_round(finished, self._sweep, self._rule) if self._has_finals else ())


class _Optuna:
    """Ray Tune's Optuna searcher (TPE), asked and told by trial ids of the search."""

    def __init__(
        self, sweep: SweepConfig, seed: int, finished: Sequence[TrialRecord], objective: Objective
    ) -> None:
        require_optuna()
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._sweep = sweep
        self._objective = objective
        self._wanted = first_round_size(sweep)
        self._asked = 0
        self._names: dict[str, str] = {}  # of live trials: what Optuna calls them
        known = [
            (record, value)
            for record in finished
            if record.spec.round == "search" and (value := objective(record)) is not None
        ]
        self._searcher: Any = OptunaSearch(
            space={key: _distribution(axis) for key, axis in search_space(sweep).items()},
            metric="objective",
            mode="min",
            sampler=optuna.samplers.TPESampler(seed=seed),
            points_to_evaluate=[self._point(record.spec) for record, _ in known],
            evaluated_rewards=[value for _, value in known],
        )

    def take_only(self, trials: int) -> None:
        """Propose no more than so many trials."""
        self._wanted = min(self._wanted, trials)

    def wants_more(self, finished: Sequence[TrialRecord]) -> bool:
        """Whether there were too few trials yet."""
        return sum(record.spec.round == "search" for record in finished) < self._wanted

    def next(self, finished: Sequence[TrialRecord], live: Collection[str]) -> TrialSpec | None:
        """A trial that is neither `finished` nor `live`; None when there were enough."""
        known = {record.spec.id: record for record in finished if record.spec.round == "search"}
        if len(known) + len(live) >= self._wanted:
            return None
        for _ in range(_REPEATS):
            asked, self._asked = str(self._asked), self._asked + 1
            spec = spec_of(self._searcher.suggest(asked), self._sweep)
            if spec.id not in known and spec.id not in live:
                self._names[spec.id] = asked
                return spec
            self._tell(asked, self._objective(known[spec.id]) if spec.id in known else None)
        self._wanted = 0
        return None

    def ended(self, record: TrialRecord) -> None:
        """Tell Optuna what came of a trial that it proposed, be it before the search was cut."""
        asked, value = self._names.pop(record.spec.id, None), self._objective(record)
        if asked is not None:
            self._tell(asked, value)
        elif record.spec.round == "search" and value is not None:
            self._searcher.add_evaluated_point(self._point(record.spec), value)

    def _tell(self, asked: str, value: float | None) -> None:
        sound = value is not None and math.isfinite(value)
        self._searcher.on_trial_complete(asked, {"objective": value} if sound else None, error=not sound)

    def _point(self, spec: TrialSpec) -> dict[str, object]:
        chosen = {CODEBOOK_SIZE: spec.codebook_size, RVQ_LEVELS: spec.rvq_levels, **spec.overrides}
        return {key: chosen[key] for key in search_space(self._sweep)}


def spread(specs: Sequence[TrialSpec]) -> tuple[TrialSpec, ...]:
    """The last one, the first one, and then always what halves the widest gap, so that whatever number of
    them runs lies evenly; the last one, mostly the slowest, is among the first.
    """
    places = [len(specs) - 1, 0] if len(specs) > 1 else list(range(len(specs)))
    while len(places) < len(specs):
        known = sorted(places)
        low, high = max(itertools.pairwise(known), key=lambda gap: gap[1] - gap[0])
        places.append((low + high) // 2)
    return tuple(specs[place] for place in places)


def require_optuna() -> None:
    """Raise InstallationError where Optuna is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise InstallationError(
            "--search optuna needs Optuna, which is not installed: pip install 'distill-ray[optuna]', "
            "or use --search random"
        )


def _distribution(axis: Any) -> Any:
    import optuna

    if isinstance(axis, LogUniform):
        return optuna.distributions.FloatDistribution(axis.low, axis.high, log=True)
    return optuna.distributions.CategoricalDistribution(axis.values)
