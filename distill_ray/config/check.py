"""Everything that can be wrong with the settings of a command, told before its data are read.

What passes here is refused later only for what the data or the machine are: a codec or corpus of another
format, a batch that the workers cannot share, a rate limit below every codec of a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from distill_ray.config.build import build_sections, unknown_keys
from distill_ray.config.catalogue import CODEC, PRIOR, flag_of, settings_of
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.generation import GenerationSettings
from distill_ray.config.pipeline import PipelineConfig
from distill_ray.config.prior import PriorConfig, PriorTrainingConfig
from distill_ray.config.resolve import Training, fitting_heads, has_budget
from distill_ray.config.setting import Section
from distill_ray.config.sweep import SweepConfig, with_search_defaults
from distill_ray.config.vqvae import TrainingConfig
from distill_ray.errors import ConfigError, Problem

_SEARCH_MINUTES = f"{SweepConfig.table}.max_minutes"


def check_settings(
    command: str, given: Mapping[str, object], *, tune: bool = True, problems: Iterable[Problem] = ()
) -> None:
    """Check what `command` ("train", "train-prior", "tune", "run") is given, by dotted key.

    tune: whether `run` searches for its codec. Raises ConfigError with every problem, beginning with the
    `problems` found elsewhere.
    """
    found = [*problems, *unknown_keys(given), *_problems((CorpusConfig,), given)]
    if command == "train" or not tune:
        found += _codec(given)
    elif command in ("tune", "run"):
        found += _search(with_search_defaults(given))
    if command in ("train-prior", "run"):
        found += _prior(given)
    if command == "run":
        found += _problems((GenerationSettings, PipelineConfig), given)
        found += _prior_beyond_all(given)
    if found:
        raise ConfigError(list(dict.fromkeys(found)))


def without_search(given: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """`given` of a `run` without a search, whose time budget is the codec's then.

    overrides: the part that is of the command line. Raises ConfigError for other settings of the search among
    them; a file may serve runs with and without one.
    """
    problems = [
        Problem(key, "is a setting of the search, which --no-tune leaves out", flag_of(key))
        for key in overrides
        if key.startswith(f"{SweepConfig.table}.") and key != _SEARCH_MINUTES
    ]
    if problems:
        raise ConfigError(problems)
    if _SEARCH_MINUTES not in overrides:
        return dict(given)
    settings = {key: value for key, value in given.items() if key != _SEARCH_MINUTES}
    return {**settings, f"{TrainingConfig.table}.max_minutes": overrides[_SEARCH_MINUTES]}


def trainings_of(command: str, *, tune: bool = True) -> tuple[type[Training], ...]:
    """The trainings of `command` (as in `check_settings`) that the workers of a plan share.

    The trials of a search have workers of their own.
    """
    if command == "run":
        return (PriorTrainingConfig,) if tune else (TrainingConfig, PriorTrainingConfig)
    trainings: dict[str, type[Training]] = {"train": TrainingConfig, "train-prior": PriorTrainingConfig}
    return (trainings[command],) if command in trainings else ()


def _codec(given: Mapping[str, object]) -> list[Problem]:
    return _problems(CODEC, _ended(given, TrainingConfig))


def _prior(given: Mapping[str, object]) -> list[Problem]:
    usual = PriorConfig()
    sized = fitting_heads(given, {"hidden_size": usual.hidden_size, "num_heads": usual.num_heads})
    values = {f"{PriorConfig.table}.{name}": value for name, value in sized.items()} | dict(given)
    return _problems(PRIOR, _ended(values, PriorTrainingConfig))


def _search(given: Mapping[str, object]) -> list[Problem]:
    try:
        sweep = build_sections((SweepConfig,), given)[SweepConfig]
        problems = []
    except ConfigError as error:
        sweep, problems = SweepConfig(), list(error.problems)
    problems += _searched_twice(given, sweep)
    problems += _codec({key: value for key, value in given.items() if key not in sweep.searched})
    if given.get("sweep.objective", "reconstruction") != "reconstruction":
        problems += _prior(given)
    return problems


def _prior_beyond_all(given: Mapping[str, object]) -> Iterator[Problem]:
    """A prior that would have the time of the whole command, or more."""
    key = f"{PriorTrainingConfig.table}.max_minutes"
    total, prior = given.get(f"{PipelineConfig.table}.max_minutes"), given.get(key)
    if isinstance(total, int | float) and isinstance(prior, int | float) and 0.0 < total <= prior:
        message = f"{prior:g} minutes for the prior leave nothing of the {total:g} of the whole run"
        yield Problem(key, f"{message}; lower it, or raise --max-minutes", flag_of(key))


def _searched_twice(given: Mapping[str, object], sweep: SweepConfig) -> Iterator[Problem]:
    """Settings of which a value is given although the search chooses it."""
    lists = {setting.meta["replaces"]: setting.flag for setting in settings_of(SweepConfig)}
    for key in sorted(sweep.searched.intersection(given)):
        if key in lists:
            yield Problem(key, f"a search chooses it; say which ones to try with {lists[key]}", lists[key])
        else:
            yield Problem(key, "is one of the settings that the search tries; leave it out", flag_of(key))


def _ended(given: Mapping[str, object], training: type[Section]) -> dict[str, object]:
    """`given` with an end of the training, which is chosen where none is given."""
    return dict(given) if has_budget(given, training.table) else {**given, f"{training.table}.epochs": 1}


def _problems(sections: Iterable[type[Section]], values: Mapping[str, object]) -> list[Problem]:
    try:
        build_sections(sections, values)
    except ConfigError as error:
        return list(error.problems)
    return []
