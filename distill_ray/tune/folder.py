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
from typing import Any, ClassVar

from distill_ray.config.sweep import RESOURCES
from distill_ray.errors import CheckpointError, UsageError
from distill_ray.jsonable import jsonable, parse_json
from distill_ray.regular_file import read_regular
from distill_ray.runs.run_folder import RunFolder, Start
from distill_ray.runs.settings_file import (
    SEARCH_SETTINGS,
    as_begun,
    read_settings,
)
from distill_ray.storage.atomic import atomic_file
from distill_ray.storage.checkpoints import ray_storage
from distill_ray.storage.ownership import refuse_writable_by_others
from distill_ray.tune.trial import ROUNDS, TrialRecord, from_json, to_json

_LEADERBOARD = "leaderboard.json"


@dataclass(frozen=True, kw_only=True)
class SweepFolder(RunFolder):
    """Where a search is kept."""

    what: ClassVar[str] = "search"
    settings_file: ClassVar[str] = SEARCH_SETTINGS

    def is_finished(self, *, report: bool = False) -> bool:
        """Whether it has ended by itself, with or without a winner, and with `report` its page is there."""
        try:
            reason = parse_json(read_regular(self.path / _LEADERBOARD)).get("exit_reason")
        except (OSError, ValueError, AttributeError):
            return False
        return reason in ("completed", "health", "failed") and (self.has_page or not report)

    @property
    def ray_storage(self) -> Path:
        """What Ray Tune writes; nothing in it is needed once Tune has ended."""
        return ray_storage(self.path)

    def trial(self, trial: str) -> RunFolder:
        """That of a trial."""
        return self.below("trials", trial)

    def save(self, record: TrialRecord) -> None:
        """Keep what became of a trial. Raises CheckpointError."""
        self._write(self.trial(record.spec.id).path / "trial.json", to_json(record))

    def records(self) -> tuple[TrialRecord, ...]:
        """What is kept of each trial, by round and id. Raises CheckpointError for a damaged file."""
        paths = sorted(self.path.glob("trials/*/trial.json"))
        records = [_record(path) for path in paths]
        return tuple(sorted(records, key=lambda record: ROUNDS.index(record.spec.round)))

    def write_leaderboard(self, document: Mapping[str, Any]) -> None:
        """The search's result as JSON. Raises CheckpointError."""
        self._write(self.path / _LEADERBOARD, json.dumps(jsonable(document), indent=1) + "\n")

    def _write(self, path: Path, text: str) -> None:
        with atomic_file(path, error=CheckpointError) as file:
            file.write(text.encode())


def _record(path: Path) -> TrialRecord:
    try:
        return from_json(read_regular(path), source=str(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); remove it") from error


EPOCH_STEPS = "training.min_epoch_steps"
"""A search raises it until its trials' epochs can be compared, and records what it took."""


def resumed_sweep(folder: SweepFolder, given: Mapping[str, object]) -> Start[SweepFolder]:
    """The search in `folder`.

    Raises UsageError where there is none or others can write to it, ConfigError for what cannot change.
    """
    if not folder.is_begun:
        raise UsageError(
            f"{folder.shown} holds no search to resume; give the folder that an earlier `tune` printed as "
            "its output"
        )
    refuse_writable_by_others(folder.path, folder.shown)
    begun = as_begun(read_settings(folder.path / SEARCH_SETTINGS))
    given = {key: value for key, value in given.items() if key != EPOCH_STEPS}
    begun.refuse_changes(given, lambda key: key in RESOURCES, what="search")
    return Start(
        folder=folder,
        settings={**begun.settings, **given},
        overrides=begun.overrides | frozenset(given),
        identity=begun.identity,
    )


def common_settings(configurations: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """The settings that have one value in all of them."""
    first, *others = configurations
    return {key: value for key, value in first.items() if all(other[key] == value for other in others)}
