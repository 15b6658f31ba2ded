"""What `distill-ray run` remembers of itself between two calls: OUT/pipeline.json.

Settings are kept as the user gave them, so that the same command can be told from another one; of each
finished stage there is what it was made from and its report. The file is replaced whole after each stage.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill_ray.config.sweep import RESOURCES
from distill_ray.errors import ConfigError, Problem, UsageError
from distill_ray.jsonable import jsonable, parse_json
from distill_ray.regular_file import read_regular
from distill_ray.runs.run_folder import PAGE, PIPELINE, newest_folders, numbered_folders
from distill_ray.storage.atomic import atomic_file
from distill_ray.storage.names import checked_name
from distill_ray.storage.ownership import refuse_writable_by_others

FILE = PIPELINE
REPORT = "report"
"""In `done`: the page was written, or could not be."""
_VERSION = 1
# The stages that a table of settings decides; with those of another table a finished stage stays as it is.
_STAGES_OF = {
    "corpus": ("prepare",),
    "sweep": ("tune",),
    "model": ("tune", "codec"),
    "training": ("tune", "codec"),
    "loss": ("tune", "codec"),
    "augment": ("tune", "codec"),
    "health": ("tune", "codec"),
    "adversarial": ("tune", "codec"),
    "prior": ("prior",),
    "prior_training": ("prior",),
}


@dataclass(kw_only=True)
class PipelineRecord:
    """`tune`: whether there is a search, or one codec is trained. `done`: finished stages by name.

    `shown` is what messages call the folder. `spent_s`: what earlier calls took. `no_search`: why there
    is none although the command wants one.
    """

    folder: Path
    shown: Path | str
    name: str
    tune: bool
    sources: tuple[str, ...]
    settings: dict[str, object]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    spent_s: float = 0.0
    no_search: str = ""

    @property
    def model(self) -> Path:
        """The file that everything ends in."""
        return self.folder / f"{self.name}.distill"

    def finish(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Keep what a stage did. Raises UsageError where the folder cannot be written."""
        self.done[stage] = jsonable(facts)
        self.save()

    def save(self) -> None:
        """Replace the file. Raises UsageError where the folder cannot be written."""
        document = {
            "version": _VERSION,
            "name": self.name,
            "tune": self.tune,
            "sources": list(self.sources),
            "settings": jsonable(self.settings),
            "stages": self.done,
            "spent_s": self.spent_s,
            "no_search": self.no_search,
        }
        with atomic_file(self.folder / FILE, error=UsageError) as file:
            file.write(json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")

    def take(self, sources: Sequence[str], name: str | None, tune: bool, given: Mapping[str, object]) -> None:
        """Take in what the command says this time.

        Raises ConfigError for settings of finished stages and UsageError for another name or kind of run:
        what is finished would no longer be what was asked for.
        """
        if name not in (None, self.name):
            raise UsageError(
                f"the run in {self.shown} is called {self.name} and not {name}; leave out --name"
            )
        if tune != self.tune:
            kind = "searches for the codec" if self.tune else "was begun with --no-tune"
            raise UsageError(f"the run in {self.shown} {kind}; go on with it so or choose another --out")
        problems = [
            Problem(
                key,
                f"{self._before(key)} in {self.shown}, where {stage} is finished; choose another --out",
            )
            for key, value in given.items()
            for stage in _STAGES_OF.get(key.partition(".")[0], ())
            if stage in self.done and key not in RESOURCES and self.settings.get(key) != value
        ]
        if problems:
            raise ConfigError(problems)
        if sources:
            self.sources = tuple(sources)
        self.settings.update(given)

    def is_finished(self, *, report: bool) -> bool:
        """Whether there is nothing to go on with; `report`: the page is wanted too."""
        told = REPORT in self.done or (self.folder / PAGE).exists()
        return "samples" in self.done and self.model.exists() and (told or not report)

    def is_asked_again(
        self, sources: Sequence[str], name: str, tune: bool, settings: Mapping[str, object]
    ) -> bool:
        """Whether it was begun by the same command. `settings` as a new record would have them."""
        asked = (tuple(sources), name, tune, dict(settings))
        return asked == (self.sources, self.name, self.tune, self.settings)

    def changed(self, given: Mapping[str, object], stage: str) -> dict[str, object]:
        """What `given` says otherwise than before of a stage that may have begun."""
        return {
            key: value
            for key, value in given.items()
            if stage in _STAGES_OF.get(key.partition(".")[0], ()) and self.settings.get(key) != value
        }

    def _before(self, key: str) -> str:
        return f"is {self.settings[key]!r}" if key in self.settings else "was chosen automatically"


def open_record(folder: Path, shown: Path | str) -> PipelineRecord:
    """The record in `folder`, called `shown`.

    Raises UsageError where there is none, it cannot be used or others can write to it.
    """
    path = folder / FILE
    refuse_writable_by_others(folder, shown)
    try:
        document = parse_json(read_regular(path))
        if document["version"] > _VERSION:
            raise UsageError(f"{shown} was written by a newer distill-ray; use that one")
        for name in _names(document):
            checked_name(name, origin=f"the {FILE} of {shown}", folders=False)
        return PipelineRecord(
            folder=folder,
            shown=shown,
            name=document["name"],
            tune=document["tune"],
            sources=tuple(document["sources"]),
            settings={
                key: tuple(value) if isinstance(value, list) else value
                for key, value in document["settings"].items()
            },
            done=dict(document["stages"]),
            spent_s=float(document.get("spent_s", 0.0)),
            no_search=str(document.get("no_search", "")),
        )
    except FileNotFoundError:
        raise UsageError(
            f"{shown} holds no run to go on with; give the folder that an earlier `run` printed"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the {FILE} of {shown} cannot be used ({type(error).__name__}: {error}); choose another --out"
        ) from error


def _names(document: Mapping[str, Any]) -> Iterator[object]:
    """What becomes a path below the folder: the model's name, folders of samples and their files."""
    yield document["name"]
    for made in document["stages"].get("samples", {}).get("sets", ()):
        yield made["folder"]
        yield from (file["name"] for file in made["files"])


def newest_record(name: str, is_same: Callable[[PipelineRecord], bool]) -> PipelineRecord | None:
    """The newest one of runs/NAME, runs/NAME-2, … that is the same; damaged ones are passed over."""
    for path in newest_folders(name):
        if (path / FILE).exists():
            with contextlib.suppress(UsageError):
                record = open_record(path, path)
                if is_same(record):
                    return record
    return None


def free_folder(name: str) -> Path:
    """The first of runs/NAME, runs/NAME-2, … that is free."""
    return next(path for path in numbered_folders(name) if is_free(path))


def is_free(path: Path) -> bool:
    """Whether there is nothing at `path`, or a folder with nothing that a user would see."""
    try:
        return all(entry.name.startswith(".") for entry in path.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
