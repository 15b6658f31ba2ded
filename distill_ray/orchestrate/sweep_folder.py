"""The folder of a search, and what one begins with: new settings, or those of the search it goes on with.

sweep.toml             every setting that all trials share, with its source; may be given to --config
trials/ID/             a trial: an ordinary run folder, and beside its run.toml
trials/ID/trial.json   what became of it (`TrialRecord`)
trials/ID/prior/       the short prior on its codes (objective prior-bits)
trials.parquet, leaderboard.json, NAME.distill
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_ray.bundle.atomic import atomic_file
from distill_ray.bundle.format import plain
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.toml import read_toml, write_toml
from distill_ray.errors import CheckpointError, ConfigError, Problem, UsageError
from distill_ray.orchestrate.results import uri_of
from distill_ray.orchestrate.run_folder import SEARCH_SETTINGS, RunFolder, without_run
from distill_ray.search.trial import ROUNDS, TrialRecord, from_json, to_json

_RUN = "run."
_OVERRIDES = _RUN + "overrides"
# What may change when a search goes on: on how much of a machine it runs, not what comes out.
_MAY_CHANGE = ("sweep.gpus_per_trial", "sweep.workers_per_trial", "sweep.max_concurrent")


@dataclass(frozen=True, kw_only=True)
class SweepFolder:
    """Where a search is kept."""

    path: Path

    @property
    def shown(self) -> Path | str:
        """What messages call it."""
        return uri_of(self.path) or self.path

    @property
    def is_begun(self) -> bool:
        return (self.path / SEARCH_SETTINGS).exists()

    @property
    def ray_storage(self) -> Path:
        """What Ray Tune writes; nothing in it is needed once Tune has ended."""
        return self.path / "ray"

    def trial(self, trial: str) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / trial

    def save(self, record: TrialRecord) -> None:
        """Keep what became of a trial. Raises CheckpointError."""
        self._write(self.trial(record.spec.id) / "trial.json", to_json(record))

    def records(self) -> tuple[TrialRecord, ...]:
        """What is kept of each trial, by round and id. Raises CheckpointError for a damaged file."""
        paths = sorted(self.path.glob("trials/*/trial.json"))
        records = [from_json(path.read_bytes(), source=str(path)) for path in paths]
        return tuple(sorted(records, key=lambda record: ROUNDS.index(record.spec.round)))

    def write_leaderboard(self, document: Mapping[str, Any]) -> None:
        """The search's result as JSON. Raises CheckpointError."""
        self._write(self.path / "leaderboard.json", json.dumps(plain(document), indent=1) + "\n")

    def _write(self, path: Path, text: str) -> None:
        with atomic_file(path, error=CheckpointError) as file:
            file.write(text.encode())


@dataclass(frozen=True, kw_only=True)
class SweepStart:
    """What a search begins with. `identity` is empty for a new one."""

    folder: SweepFolder
    settings: Mapping[str, object]
    overrides: frozenset[str]
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_new(self) -> bool:
        return not self.identity

    def check(self, identity: Mapping[str, str]) -> None:
        """Raise UsageError where the resumed search was made from something else."""
        for key, value in identity.items():
            if self.identity.get(key, value) != value:
                raise UsageError(
                    f"the search in {self.folder.shown} was made on another {key}; "
                    "resume it with the one it began with, or start a new search"
                )

    def record(
        self, settings: Mapping[str, object], identity: Mapping[str, str], *, corpus: Mapping[str, object]
    ) -> None:
        """Make the folder and record settings and `identity` there. Raises UsageError."""
        values: dict[str, object] = {_RUN + key: value for key, value in identity.items()}
        values[_OVERRIDES] = tuple(sorted(self.overrides))
        shared = {f"{CorpusConfig.table}.{key}": value for key, value in corpus.items()} | dict(settings)
        notes = {key: self.source(key) for key in shared}
        path = self.folder.path / SEARCH_SETTINGS
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            text = write_toml({**values, **shared}, notes)
            if self.is_new:
                with path.open("x", encoding="utf-8") as claimed:
                    claimed.write(text)
            else:
                with atomic_file(path, error=UsageError) as file:
                    file.write(text.encode())
        except FileExistsError as error:
            raise UsageError(
                f"another process has begun a search in {path.parent} meanwhile; choose another --out"
            ) from error
        except OSError as error:
            raise UsageError(
                f"the folder {path.parent} cannot be written ({error.strerror}); choose another --out"
            ) from error

    def source(self, key: str) -> str:
        return "override" if key in self.overrides else "auto"


def new_sweep(path: Path, given: Mapping[str, object]) -> SweepStart:
    """A search in `path`. Raises UsageError where that holds a run or a search already."""
    folder = SweepFolder(path=path)
    if folder.is_begun:
        shown = folder.shown
        raise UsageError(
            f"{shown} already holds a search; go on with it (--resume {shown}) or choose another --out"
        )
    if RunFolder(path=path).is_taken:
        raise UsageError(f"{folder.shown} already holds a run; choose another --out")
    return SweepStart(folder=folder, settings=given, overrides=frozenset(given))


def resumed_sweep(path: Path, given: Mapping[str, object]) -> SweepStart:
    """The search in `path`. Raises UsageError where there is none, ConfigError for what cannot change."""
    folder = SweepFolder(path=path)
    if not folder.is_begun:
        raise UsageError(
            f"{folder.shown} holds no search to resume; give the folder that an earlier `tune` printed as "
            "its output"
        )
    values = read_toml(folder.path / SEARCH_SETTINGS)
    recorded = without_run(values)
    before = {**recorded, "model.size": values.get(_RUN + "size")}
    tables = {key.partition(".")[0] for key in recorded}
    fixed = [
        Problem(key, f"is {_words(before.get(key))} in the resumed search and cannot become {_words(value)}")
        for key, value in given.items()
        if key.partition(".")[0] in tables and key not in _MAY_CHANGE and not _same(before.get(key), value)
    ]
    if fixed:
        raise ConfigError(fixed)
    overrides = values.get(_OVERRIDES, ())
    assert isinstance(overrides, tuple)
    return SweepStart(
        folder=folder,
        settings={**recorded, **given},
        overrides=frozenset(map(str, overrides)) | frozenset(given),
        identity={
            key.removeprefix(_RUN): str(value)
            for key, value in values.items()
            if key.startswith(_RUN) and key != _OVERRIDES
        },
    )


def common_settings(configurations: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """The settings that have one value in all of them."""
    first, *others = configurations
    return {key: value for key, value in first.items() if all(other[key] == value for other in others)}


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _same(before: object, now: object) -> bool:
    """Whether two settings mean the same; lists to try have no order."""
    if isinstance(before, tuple) and isinstance(now, tuple):
        return set(before) == set(now)
    return before == now
