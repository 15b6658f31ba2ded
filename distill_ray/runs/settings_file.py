"""run.toml and sweep.toml: every setting with its source, and what the run or search was made from.

`run_folder.py` and `tune/folder.py` say what a run and a search do with them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from distill_ray.config.adversarial import AdversarialConfig
from distill_ray.config.catalogue import flag_of, settings_of
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.health import HealthConfig
from distill_ray.config.prior import PriorConfig, PriorTrainingConfig
from distill_ray.config.resolve import RATES, SIZE
from distill_ray.config.toml import read_toml, write_toml
from distill_ray.config.vqvae import MODEL_BEFORE, AugmentConfig, LossConfig, TrainingConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem, UsageError
from distill_ray.storage.atomic import atomic_file, claim_file
from distill_ray.storage.names import checked_name

RUN_SETTINGS = "run.toml"
SEARCH_SETTINGS = "sweep.toml"
_RUN = "run."
OVERRIDES = _RUN + "overrides"
# What codecs' runs and searches did whose settings were recorded before these existed.
_BEFORE: dict[str, object] = {
    **{f"{VQVAEConfig.table}.{key}": value for key, value in MODEL_BEFORE.items()},
    f"{LossConfig.table}.bands": 0.0,
    f"{AugmentConfig.table}.silence": 0.0,
    f"{TrainingConfig.table}.muon_rate": 0.0,
    f"{TrainingConfig.table}.head_rate": 1.0,
    f"{AdversarialConfig.table}.judged_every": 1,
    f"{AdversarialConfig.table}.banded": True,
    f"{AdversarialConfig.table}.periods": 5,
    f"{LossConfig.table}.consistency": 0.0,
    f"{HealthConfig.table}.kept_floor": 0.0,
    f"{HealthConfig.table}.gain_floor": 0.0,
}
# The same of priors' runs.
_PRIOR_BEFORE: dict[str, object] = {
    f"{PriorTrainingConfig.table}.variants": 0,
    f"{PriorTrainingConfig.table}.unvaried_share": 0.0,
    f"{PriorTrainingConfig.table}.replaced_share": 0.0,
    f"{PriorConfig.table}.controls": 0,
    f"{PriorConfig.table}.labels": 0,
    f"{PriorConfig.table}.masked_share": 0.0,
    f"{PriorConfig.table}.openings": 0,
}

# What a run prepared its recordings with where it recorded nothing of it.
_CORPUS_DEFAULTS: dict[str, object] = {row.key: row.default for row in settings_of(CorpusConfig)}


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run or search begins with. `identity` is what a resumed one was made from, and empty for a
    new one.
    """

    settings: Mapping[str, object]
    overrides: frozenset[str]
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_new(self) -> bool:
        return not self.identity

    def other(self, identity: Mapping[str, str]) -> str | None:
        """What of `identity` the resumed one was made from another of."""
        return next((key for key, value in identity.items() if self.identity.get(key, value) != value), None)

    def is_asked_again(self, given: Mapping[str, object], *, free: Collection[str] = ()) -> bool:
        """Whether it was begun with just these settings; those in `free` may be others."""
        now, asked = self.settings, given.keys() - set(free)
        tables = {key.partition(".")[0] for key in now}  # of others only the keys are recorded
        return asked == self.overrides - set(free) and all(
            key.partition(".")[0] not in tables or _same(now.get(key), given[key]) for key in asked
        )

    def refuse_renaming(self, name: str | None, *, what: str) -> None:
        """Raise UsageError where a name is given that is not that of the resumed one."""
        if name is not None and self.other({"name": name}):
            raise UsageError(
                f"the name of the resumed {what} is {self.identity['name']} and cannot become {name}; "
                "leave out --name"
            )

    def refuse_changes(
        self, given: Mapping[str, object], may_change: Callable[[str], bool], *, what: str
    ) -> None:
        """Raise ConfigError where `given` has other values of settings that may not change."""
        # One settings file may serve every stage: the tables of the others are nothing to this one.
        now = _CORPUS_DEFAULTS | dict(self.settings)
        tables = {key.partition(".")[0] for key in now}
        fixed = [
            Problem(
                key,
                f"is {_words(now.get(key))} in the resumed {what} and cannot become {_words(value)}",
                flag_of(key),
            )
            for key, value in given.items()
            if key.partition(".")[0] in tables and not may_change(key) and not _same(now.get(key), value)
        ]
        if fixed:
            raise ConfigError(fixed)


def read_settings(path: Path) -> Beginning:
    """What `write_settings` recorded. Raises UsageError, also for a name that would lead elsewhere."""
    values = read_toml(path, recorded=True)
    if _RUN + "name" in values:  # of the model's file
        checked_name(values[_RUN + "name"], origin=str(path), folders=False)
    overrides = values.get(OVERRIDES, ())
    if not isinstance(overrides, tuple):
        raise UsageError(f"{path} is damaged: {OVERRIDES} is no list; start a new run")
    return Beginning(
        settings=without_run(values),
        overrides=frozenset(map(str, overrides)),
        identity={
            key.removeprefix(_RUN): str(value)
            for key, value in values.items()
            if key.startswith(_RUN) and key != OVERRIDES
        },
    )


def as_begun(begun: Beginning, table: str = TrainingConfig.table) -> Beginning:
    """A run or search with its size, and what it did about settings that are newer than its record.

    `table` is that of its training settings. A search over sizes records none that go by size; they are each
    trial's own.
    """
    if table == PriorTrainingConfig.table:
        return replace(begun, settings=_PRIOR_BEFORE | dict(begun.settings))
    own = RATES if begun.settings.get("sweep.sizes") else ()
    before = {key: value for key, value in _BEFORE.items() if key not in own}
    size = {SIZE: begun.identity["size"]} if begun.identity.get("size") else {}
    return replace(begun, settings={**before, **begun.settings, **size})


def write_settings(
    path: Path,
    settings: Mapping[str, object],
    *,
    overrides: frozenset[str],
    identity: Mapping[str, str],
    corpus: Mapping[str, object],
    claim: bool,
) -> None:
    """Make the folder and the file in it.

    corpus: what the user said of the preparation, without which a resumed run that was begun on a plain
    folder would prepare another corpus. claim: the file must be new (else FileExistsError); a file that is
    there is replaced at once. Raises OSError, or UsageError while replacing.
    """
    shared = {f"{CorpusConfig.table}.{key}": value for key, value in corpus.items()} | dict(settings)
    values: dict[str, object] = {_RUN + key: value for key, value in identity.items()}
    values[OVERRIDES] = tuple(sorted(overrides))
    notes = {key: "override" if key in overrides else "auto" for key in shared}
    notes |= dict.fromkeys((_RUN + key for key in identity), "of this run, not read from --config")
    text = write_toml({**values, **shared}, notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    if claim:
        claim_file(path, text.encode())
    else:
        with atomic_file(path, error=UsageError) as file:
            file.write(text.encode())


def without_run(values: Mapping[str, object]) -> dict[str, object]:
    """Settings alone: what a `run.toml` that is given to --config may override."""
    return {key: value for key, value in values.items() if not key.startswith(_RUN)}


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _same(before: object, now: object) -> bool:
    """Whether two settings mean the same; lists to try have no order."""
    if isinstance(before, tuple) and isinstance(now, tuple):
        return set(before) == set(now)
    return before == now
