"""The folder of a training run, and what a run begins with: new settings, or those of the run it resumes.

run.toml      every setting with its source; may be given to --config
checkpoints/  written by `training/worker.py`
NAME.distill  the model (codec runs)
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from distill_ray.config.health import HealthConfig
from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.resolve import BUDGET, RATES, Resolved
from distill_ray.config.vqvae import TrainingConfig, VQTrainConfig, VQVAEConfig
from distill_ray.errors import UsageError
from distill_ray.jsonable import parse_json
from distill_ray.regular_file import read_regular
from distill_ray.runs.settings_file import (
    RUN_SETTINGS,
    SEARCH_SETTINGS,
    Beginning,
    as_begun,
    read_settings,
    write_settings,
)
from distill_ray.storage.filesystem import joined
from distill_ray.storage.ownership import refuse_writable_by_others
from distill_ray.storage.storage import open_storage
from distill_ray.storage.uploaded import discard

ConfigT = TypeVar("ConfigT", VQTrainConfig, PriorTrainConfig)
FolderT = TypeVar("FolderT", bound="RunFolder")

# What may change when a run goes on, as its health rule may; anything else would make it another run.
_MAY_CHANGE = (*BUDGET, "patience", "val_seconds", "checkpoint_seconds")


ANOTHER_OUT = "choose another --out"
PIPELINE = "pipeline.json"
"""What `distill-ray run` records of itself (`pipeline/record.py`)."""
PAGE = "report.html"
"""The report of a run or a search (`report/write.py`)."""
ROUNDS_FILE = "rounds.json"
"""What a search with a time budget has settled on (`tune/step_budget.py`)."""
_ENDS = ("completed", "early_stop", "health")
# What runs and searches put beside their settings file: with that, it is theirs to replace and remove.
_RESULTS = (
    "ray",
    "trials",
    "trials.parquet",
    "leaderboard.json",
    ROUNDS_FILE,
    "events.jsonl",
    "error.log",
    "tensorboard",
    "samples",
    PAGE,
)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run is kept: in `path`, which appears at `uri` where there is one.

    `advice` is what an error says to do about one that cannot be written.
    """

    path: Path
    uri: str | None = None
    advice: str = ANOTHER_OUT
    what: ClassVar[str] = "run"
    settings_file: ClassVar[str] = RUN_SETTINGS

    def below(self, *names: str) -> RunFolder:
        """One within it."""
        return RunFolder(path=self.path.joinpath(*names), uri=self.uri and joined(self.uri, *names))

    @property
    def shown(self) -> Path | str:
        """What messages call it."""
        return self.uri or self.path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def checkpoints_uri(self) -> str | None:
        return self.uri and joined(self.uri, "checkpoints")

    @property
    def is_begun(self) -> bool:
        """Whether it holds one of its kind."""
        return (self.path / self.settings_file).exists()

    @property
    def is_taken(self) -> bool:
        """Whether it holds a run or a search."""
        return any((self.path / name).exists() for name in (RUN_SETTINGS, SEARCH_SETTINGS))

    def is_finished(self, *, report: bool = False) -> bool:
        """Whether there is nothing to go on with: it has ended by itself, and its model is there, and with
        `report` its page.
        """
        if end_of(self.path) not in _ENDS or (report and not self.has_page):
            return False
        name = read_settings(self.path / self.settings_file).identity.get("name")
        return name is None or (self.path / f"{name}.distill").exists()

    @property
    def has_page(self) -> bool:
        """Whether its report is there, which comes after its model."""
        return (self.path / PAGE).exists()

    def refuse_foreign(self) -> None:
        """Raise UsageError where a new run would write into, or remove, what is of no run."""
        for name in _RESULTS:
            self._refuse(name, there=os.path.lexists(self.path / name))
        is_real = self.checkpoints.is_dir() and not self.checkpoints.is_symlink()
        named = [entry for entry in self.checkpoints.iterdir() if entry.name[0] != "."] if is_real else ()
        self._refuse("checkpoints", there=bool(named) or (os.path.lexists(self.checkpoints) and not is_real))
        if self.checkpoints_uri is not None:
            storage = open_storage(self.checkpoints_uri, holds="the checkpoints", error=UsageError)
            self._refuse("checkpoints", there=bool(storage.names()))

    def refuse_model(self, name: str) -> None:
        """Raise UsageError where a model of that name is there that no run of this folder has made."""
        self._refuse(f"{name}.distill", there=os.path.lexists(self.path / f"{name}.distill"))

    def _refuse(self, name: str, *, there: bool) -> None:
        if there:
            raise UsageError(
                f"{self.shown} holds {name}, which is of no run that is recorded there; {self.advice}"
            )


class OtherOriginError(UsageError):
    """A run or search was made from something else than what it shall go on with."""


@dataclass(frozen=True, kw_only=True)
class Start(Beginning, Generic[FolderT]):
    """What a run or search begins with; `replaces`: a new run takes the place of a finished one."""

    folder: FolderT
    replaces: bool = False

    def check(self, identity: Mapping[str, str]) -> None:
        """Raise UsageError where the resumed one was made from something else."""
        other, folder = self.other(identity), self.folder
        if other is not None:
            raise OtherOriginError(
                f"the {folder.what} in {folder.shown} was made from another {other}; "
                f"go on with the one it began with, or begin another {folder.what} (--new)"
            )

    def record(
        self,
        settings: Mapping[str, object],
        identity: Mapping[str, str],
        *,
        overrides: frozenset[str],
        corpus: Mapping[str, object],
    ) -> None:
        """Make the folder and record settings and `identity` there; the others as in `write_settings`.

        Raises UsageError where the folder cannot be written, or where another process began one there since
        `new_run` found it free.
        """
        folder, claims = self.folder, self.is_new and not self.replaces
        if claims and "name" in identity:
            folder.refuse_model(identity["name"])
        try:
            if self.replaces:  # else the checkpoint of the finished run would be taken for this one's
                discard(folder.checkpoints, folder.checkpoints_uri)
            write_settings(
                folder.path / folder.settings_file,
                settings,
                overrides=overrides,
                identity=identity,
                corpus=corpus,
                claim=claims,
            )
        except OSError as error:
            if claims and folder.is_begun:
                raise UsageError(
                    f"another process has begun a {folder.what} in {folder.shown} meanwhile; {ANOTHER_OUT}"
                ) from error
            raise UsageError(
                f"the {folder.what} folder {folder.shown} cannot be written ({error.strerror}); "
                f"{folder.advice}"
            ) from error

    def source(self, key: str) -> str:
        """Where a setting's value comes from."""
        return "override" if key in self.overrides else "auto"

    def with_recorded_sources(self, resolved: Resolved[ConfigT]) -> Resolved[ConfigT]:
        """The configuration with its sources as the first part of the run had them."""
        return replace(resolved, overrides=self.overrides) if not self.is_new else resolved


def new_run(folder: FolderT, given: Mapping[str, object]) -> Start[FolderT]:
    """A run or search in `folder`. Raises UsageError where that holds one, or one of the other kind."""
    shown = folder.shown
    if folder.is_begun:
        raise UsageError(
            f"{shown} already holds a {folder.what}; go on with it (--resume {shown}) or {ANOTHER_OUT}"
        )
    if folder.is_taken:
        raise UsageError(
            f"{shown} already holds a {'search' if folder.what == 'run' else 'run'}; {ANOTHER_OUT}"
        )
    folder.refuse_foreign()
    return Start(folder=folder, settings=given, overrides=frozenset(given))


def numbered_folders(name: str) -> Iterator[Path]:
    """runs/NAME, runs/NAME-2, …"""
    names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return ((Path("runs") / each).resolve() for each in names)


def newest_folders(name: str) -> list[Path]:
    """Those of runs/NAME, runs/NAME-2, … that there are, the highest number first."""
    number = re.compile(re.escape(name) + r"(?:-([1-9]\d{0,8}))?")
    runs = Path("runs").resolve()
    found = [(number.fullmatch(path.name), path) for path in (runs.iterdir() if runs.is_dir() else ())]
    numbered = sorted(((int(match[1] or 1), path) for match, path in found if match), reverse=True)
    return [path for _, path in numbered]


def free_folders(name: str) -> Iterator[RunFolder]:
    """Those of runs/NAME, runs/NAME-2, … that hold neither run nor search, be it as parts of a pipeline."""
    folders = (RunFolder(path=path) for path in numbered_folders(name))
    return (folder for folder in folders if not folder.is_taken and not (folder.path / PIPELINE).exists())


def new_prior_run(folder: RunFolder, given: Mapping[str, object], *, new: bool = False) -> Start[RunFolder]:
    """A prior run in `folder`, taking the place of a finished one, or with `new` of any; its newest
    checkpoint must be in `path`.

    Raises UsageError where an unfinished one is there: its training would be lost.
    """
    if not new and folder.is_begun and was_cut(folder.path):
        raise UsageError(
            f"{folder.shown} holds an interrupted prior run of other settings; go on with --resume, or begin "
            "another with --new, which takes its place"
        )
    if not folder.is_begun:
        folder.refuse_foreign()
    return Start(folder=folder, settings=given, overrides=frozenset(given), replaces=folder.is_begun)


def resumed_run(folder: RunFolder, given: Mapping[str, object], *, table: str) -> Start[RunFolder]:
    """The run in `folder` with a new budget where `given` has one; `table` is that of its training settings.

    Raises UsageError where there is no run or others can write to it, ConfigError for settings that cannot
    change.
    """
    if not folder.is_begun:
        raise UsageError(
            f"{folder.shown} holds no run to resume; give the folder that an earlier run printed as its "
            "output"
        )
    refuse_writable_by_others(folder.path, folder.shown)
    begun = as_begun(read_settings(folder.path / RUN_SETTINGS), table)
    begun.refuse_changes(given, _may_change, what="run")
    recorded, budget = dict(begun.settings), [f"{table}.{name}" for name in BUDGET]
    if any(key in given for key in budget):
        recorded = {key: value for key, value in recorded.items() if key not in budget}
    elif table == TrainingConfig.table:
        recorded.setdefault(f"{table}.epochs", None)  # a time budget alone stays one
    return Start(
        folder=folder,
        settings={**recorded, **given},
        overrides=begun.overrides | frozenset(given),
        identity=begun.identity,
    )


def begun_by_size(folder: RunFolder) -> dict[str, object]:
    """What goes by size of a codec's run that has begun, the codec and its rates, by dotted key; empty where
    there is no run.
    """
    if not folder.is_begun:
        return {}
    settings = as_begun(read_settings(folder.path / RUN_SETTINGS)).settings
    return {
        key: value
        for key, value in settings.items()
        if key.startswith(f"{VQVAEConfig.table}.") or key in RATES
    }


def _may_change(key: str) -> bool:
    table, _, name = key.rpartition(".")
    return table == HealthConfig.table or name in _MAY_CHANGE


def was_cut(path: Path) -> bool:
    """Whether the run in `path` has a checkpoint of before its end."""
    return end_of(path) not in (None, *_ENDS)


def end_of(path: Path) -> str | None:
    """How the run in `path` had ended at its newest checkpoint, "" where it had not, None without one."""
    progress = _progress(path)
    if progress is None:
        return None  # nothing there that a new run could lose
    found = progress.get("ended")
    return found if isinstance(found, str) else ""


def trained_s(path: Path) -> float:
    """How many seconds the run in `path` had taken at its newest checkpoint; 0 without one."""
    found = (_progress(path) or {}).get("elapsed_s")
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else 0.0


def _progress(path: Path) -> dict[str, Any] | None:
    try:
        return dict(parse_json(read_regular(path / "checkpoints" / "latest" / "progress.json")))
    except (OSError, ValueError, TypeError):
        return None
