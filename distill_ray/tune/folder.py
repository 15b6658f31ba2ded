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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.config.sweep import RESOURCES
from distill_ray.errors import CheckpointError, UsageError
from distill_ray.jsonable import jsonable
from distill_ray.regular_file import read_regular
from distill_ray.runs.run_folder import RunFolder
from distill_ray.runs.settings_file import (
    SEARCH_SETTINGS,
    Beginning,
    as_begun,
    read_settings,
    write_settings,
)
from distill_ray.runs.workspace import uri_of
from distill_ray.storage.atomic import atomic_file
from distill_ray.storage.checkpoints import ray_storage
from distill_ray.storage.ownership import refuse_writable_by_others
from distill_ray.tune.trial import ROUNDS, TrialRecord, from_json, to_json


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
        return ray_storage(self.path)

    def trial(self, trial: str) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / trial

    def save(self, record: TrialRecord) -> None:
        """Keep what became of a trial. Raises CheckpointError."""
        self._write(self.trial(record.spec.id) / "trial.json", to_json(record))

    def records(self) -> tuple[TrialRecord, ...]:
        """What is kept of each trial, by round and id. Raises CheckpointError for a damaged file."""
        paths = sorted(self.path.glob("trials/*/trial.json"))
        records = [_record(path) for path in paths]
        return tuple(sorted(records, key=lambda record: ROUNDS.index(record.spec.round)))

    def write_leaderboard(self, document: Mapping[str, Any]) -> None:
        """The search's result as JSON. Raises CheckpointError."""
        self._write(self.path / "leaderboard.json", json.dumps(jsonable(document), indent=1) + "\n")

    def _write(self, path: Path, text: str) -> None:
        with atomic_file(path, error=CheckpointError) as file:
            file.write(text.encode())


def _record(path: Path) -> TrialRecord:
    try:
        return from_json(read_regular(path), source=str(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); remove it") from error


@dataclass(frozen=True, kw_only=True)
class SweepStart(Beginning):
    """What a search begins with."""

    folder: SweepFolder

    def check(self, identity: Mapping[str, str]) -> None:
        """Raise UsageError where the resumed search was made from something else."""
        other = self.other(identity)
        if other is not None:
            raise UsageError(
                f"the search in {self.folder.shown} was made on another {other}; "
                "resume it with the one it began with, or start a new search"
            )

    def record(
        self, settings: Mapping[str, object], identity: Mapping[str, str], *, corpus: Mapping[str, object]
    ) -> None:
        """Make the folder and record settings and `identity` there. Raises UsageError."""
        path = self.folder.path / SEARCH_SETTINGS
        if self.is_new:
            RunFolder(path=self.folder.path).refuse_model(identity["name"])
        try:
            write_settings(
                path,
                settings,
                overrides=self.overrides,
                identity=identity,
                corpus=corpus,
                claim=self.is_new,
            )
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
    RunFolder(path=path, uri=uri_of(path)).refuse_foreign()
    return SweepStart(folder=folder, settings=given, overrides=frozenset(given))


def resumed_sweep(path: Path, given: Mapping[str, object]) -> SweepStart:
    """The search in `path`.

    Raises UsageError where there is none or others can write to it, ConfigError for what cannot change.
    """
    folder = SweepFolder(path=path)
    if not folder.is_begun:
        raise UsageError(
            f"{folder.shown} holds no search to resume; give the folder that an earlier `tune` printed as "
            "its output"
        )
    refuse_writable_by_others(path, folder.shown)
    begun = as_begun(read_settings(folder.path / SEARCH_SETTINGS))
    begun.refuse_changes(given, lambda key: key in RESOURCES, what="search")
    return SweepStart(
        folder=folder,
        settings={**begun.settings, **given},
        overrides=begun.overrides | frozenset(given),
        identity=begun.identity,
    )


def common_settings(configurations: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """The settings that have one value in all of them."""
    first, *others = configurations
    return {key: value for key, value in first.items() if all(other[key] == value for other in others)}
