"""Which trials a search has: the first round from the settings, later rounds from the records so far.

Every function is pure: the same settings, seed and records give the same trials with the same ids, so that
a resumed search goes on where it was. `finalists.py` says which candidates the last round retrains.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from distill_ray.config.resolve import SIZE
from distill_ray.config.sweep import SweepConfig
from distill_ray.tune.finalists import chosen_finalists
from distill_ray.tune.trial import TrialRecord, TrialSpec, make_spec
from distill_ray.vqvae.health import HealthRule

AUTO_TRIALS = 16
"""Most trials of a random or Optuna search that was not told how many."""

CODEBOOK_SIZE = "model.codebook_size"
RVQ_LEVELS = "model.num_quantizers"
STRIDE = "model.stride"
LR = "training.lr"
COMMITMENT_WEIGHT = "model.commitment_weight"
_DIGITS = 3  # significant ones of a drawn value, so that ids stay readable
_DRAWS = 100  # without anything new, after which a range counts as used up


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A setting that takes one of `values`."""

    values: tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class LogUniform:
    """A setting drawn from low … high, uniform in its logarithm."""

    low: float
    high: float


def search_space(sweep: SweepConfig) -> dict[str, Choice | LogUniform]:
    """What the first round may vary, by dotted setting; depth only where the plan makes it a trial's own."""
    space: dict[str, Choice | LogUniform] = {CODEBOOK_SIZE: Choice(values=sweep.codebook_sizes)}
    if sweep.plan == "grid":
        space[RVQ_LEVELS] = Choice(values=sweep.rvq_levels)
    for key, values, ends in (
        (STRIDE, sweep.strides, ()),
        (LR, sweep.lrs, sweep.lr_range),
        (COMMITMENT_WEIGHT, sweep.commitment_weights, sweep.commitment_weight_range),
        (SIZE, sweep.sizes, ()),
    ):
        if values:
            space[key] = Choice(values=values)
        elif ends:
            space[key] = LogUniform(low=ends[0], high=ends[1])
    return space


def first_round_size(sweep: SweepConfig) -> int:
    """How many trials the first round has, at most (a narrow range may hold fewer different values)."""
    space = search_space(sweep).values()
    wanted = sweep.trials if sweep.trials is not None or sweep.search == "grid" else AUTO_TRIALS
    if any(isinstance(axis, LogUniform) for axis in space):
        assert wanted is not None, "SweepConfig asks for trials with a range"
        return wanted
    points = math.prod(len(axis.values) for axis in space if isinstance(axis, Choice))
    return points if wanted is None else min(wanted, points)


def first_round(sweep: SweepConfig, *, seed: int) -> tuple[TrialSpec, ...]:
    """The trials of the first round; none with Optuna, which asks for them one by one (`spec_of`).

    A grid with fewer trials than points is a random part of it, in its order. Random trials go through all
    combinations of listed values before one comes again with other drawn values; a larger number of trials
    begins with those of a smaller one.
    """
    if sweep.search == "optuna":
        return ()
    count, rng = first_round_size(sweep), random.Random(seed)  # noqa: S311 - no secret: trials of a seed
    if sweep.search == "random":
        return tuple(itertools.islice(_drawn(sweep, rng), count))
    points = _points(search_space(sweep))
    kept = sorted(sorted(range(len(points)), key=lambda _: rng.random())[:count])
    return tuple(spec_of(points[index], sweep) for index in kept)


def spec_of(values: Mapping[str, object], sweep: SweepConfig) -> TrialSpec:
    """The trial of the first round for one value of each setting of `search_space`.

    Drawn values are rounded to three significant digits. Equal trials have equal ids.
    """
    space, overrides = search_space(sweep), dict(values)
    assert overrides.keys() == space.keys(), (sorted(overrides), sorted(space))
    for key, axis in space.items():
        if isinstance(axis, LogUniform):
            overrides[key] = _rounded(_number(overrides[key]), axis)
    codebook_size = _whole(overrides.pop(CODEBOOK_SIZE))
    if sweep.plan == "depth":
        depths = sweep.rvq_levels
    else:
        depths = (_whole(overrides.pop(RVQ_LEVELS)),)
    return make_spec("search", codebook_size, depths, overrides)


def shallower_round(records: Sequence[TrialRecord], sweep: SweepConfig) -> tuple[TrialSpec, ...]:
    """Collapsed trials again, at the greatest searched depth that does without the collapsed level.

    Empty with plan "grid", which has every depth anyway. No id of `records` comes again.
    """
    if sweep.plan == "grid":
        return ()
    known = {record.spec.id for record in records}
    specs: dict[str, TrialSpec] = {}
    for record in records:
        spec, level = record.spec, record.collapsed_level
        if record.state != "collapsed" or level is None:
            continue
        depths = tuple(depth for depth in spec.depths if depth <= level)
        if depths:
            again = make_spec("shallower", spec.codebook_size, depths, spec.overrides)
            if again.id not in known:
                specs[again.id] = again
    return tuple(specs[id_] for id_ in sorted(specs))


def final_round_size(sweep: SweepConfig) -> int:
    """How many trials the last round has, at most, unless finalists have to be replaced."""
    return sweep.finalists if sweep.plan == "depth" and len(sweep.rvq_levels) > 1 else 0


def waves(sweep: SweepConfig, *, trials: int, concurrent: int) -> int:
    """How often trials begin together, `concurrent` of them, in a search whose first round has `trials`."""
    finalists = min(trials, final_round_size(sweep))
    return math.ceil(trials / concurrent) + math.ceil(finalists / concurrent)


def final_round(
    records: Sequence[TrialRecord], sweep: SweepConfig, rule: HealthRule
) -> tuple[TrialSpec, ...]:
    """The finalists that have yet to be trained at their own depth; no id of `records` comes again.

    Empty with plan "grid", and as long as a trial of `records` has not finished: who the finalists are would
    hang on when one asks. Call it again after the round: see `finalists.chosen_finalists` for replacements.
    """
    return tuple(
        finalist.spec for finalist in chosen_finalists(records, sweep, rule) if finalist.record is None
    )


def needs_no_final_round(records: Sequence[TrialRecord], sweep: SweepConfig, rule: HealthRule) -> bool:
    """Whether a last round was expected, and every finalist has been trained at its own depth before it."""
    finalists = chosen_finalists(records, sweep, rule)
    was_trained = [finalist.record for finalist in finalists if finalist.spec.round != "final"]
    return bool(final_round_size(sweep) and finalists) and len(was_trained) == len(finalists)


def _drawn(sweep: SweepConfig, rng: random.Random) -> Iterator[TrialSpec]:
    """Different trials, as long as the ranges have values that were not drawn yet."""
    space = search_space(sweep)
    points, taken = _points(space), set[str]()
    new = True
    while new:
        new = False
        for point in sorted(points, key=lambda _: rng.random()):
            for _ in range(_DRAWS):
                drawn = {key: _draw(axis, rng) for key, axis in space.items() if isinstance(axis, LogUniform)}
                spec = spec_of({**point, **drawn}, sweep)
                if spec.id not in taken:
                    break
            else:
                continue
            new = True
            taken.add(spec.id)
            yield spec


def _draw(axis: LogUniform, rng: random.Random) -> float:
    return math.exp(rng.uniform(math.log(axis.low), math.log(axis.high)))


def _points(space: Mapping[str, Choice | LogUniform]) -> list[dict[str, object]]:
    """Every combination of the listed values; the first setting changes slowest."""
    listed = {key: axis.values for key, axis in space.items() if isinstance(axis, Choice)}
    return [dict(zip(listed, point, strict=True)) for point in itertools.product(*listed.values())]


def _rounded(value: float, axis: LogUniform) -> float:
    return min(max(float(f"{value:.{_DIGITS}g}"), axis.low), axis.high)


def _whole(value: object) -> int:
    assert isinstance(value, int), value
    return value


def _number(value: object) -> float:
    assert isinstance(value, int | float), value
    return value
