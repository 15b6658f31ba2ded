"""How a command enters its run: a new one, the one that --resume names, or its own that was interrupted.

`pipeline/train.py` and `tune/tune.py` do their work within `carry_out`. The newest run of the same command is
looked for by its recorded settings; of which recordings it is shows once the corpus is there (`Start.check`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from distill_ray.config.vqvae import TrainingConfig
from distill_ray.errors import CancelledError, DistillError, UsageError
from distill_ray.events.records import Notice
from distill_ray.runs.run_folder import (
    PIPELINE,
    OtherOriginError,
    RunFolder,
    Start,
    new_run,
    newest_folders,
)
from distill_ray.runs.settings_file import as_begun, read_settings
from distill_ray.runs.workspace import BusyError, Place, ResultFolder, enter_free_folder, result_folder
from distill_ray.training.worker import Listener

FolderT = TypeVar("FolderT", bound=RunFolder)
ReportT = TypeVar("ReportT")


@dataclass(frozen=True, kw_only=True)
class Asked(Generic[FolderT]):
    """What a command says of its run. `kind` is the class of its folder, `free` the settings that do not
    make it another command, `resumed` what a run that goes on begins with. `new`: it never goes on with one
    that --resume does not name. `report`: it is finished with its page alone.
    """

    kind: type[FolderT]
    given: Mapping[str, object]
    name: str | None
    out: Place | ResultFolder | None
    resume: Place | ResultFolder | None
    new: bool
    resumed: Callable[[FolderT, Mapping[str, object]], Start[FolderT]]
    free: Collection[str] = ()
    report: bool = False

    def is_asked_again(self, folder: FolderT) -> bool:
        """Whether the run in `folder` was begun by the same command, as far as its settings show."""
        return is_asked_again(folder, self.given, name=self.name, free=self.free)


@dataclass(frozen=True, kw_only=True)
class _Entered(Generic[FolderT]):
    """`by_itself`: it goes on although nobody said so."""

    results: ResultFolder
    start: Start[FolderT]
    by_itself: bool = False


def carry_out(
    asked: Asked[FolderT],
    work: Callable[[ResultFolder, Start[FolderT]], ReportT],
    listener: Listener,
) -> ReportT:
    """What `work` makes in the run's folder, which no other process works in meanwhile.

    An error of it that the same command goes on after says so (`DistillError.goes_on`).
    Raises what `work` does, CancelledError for Ctrl-C in it, and UsageError where the run cannot begin.
    """
    try:
        with _entered(asked, listener) as entered, marking(entered.start.folder):
            return work(entered.results, entered.start)
    except OtherOriginError:
        if not entered.by_itself:
            raise
        folder = entered.start.folder
        message = f"the unfinished {folder.what} in {folder.shown} is of other recordings: this is a new one"
        listener(Notice(level="info", message=message))
    return carry_out(replace(asked, new=True), work, listener)


@contextlib.contextmanager
def _entered(asked: Asked[FolderT], listener: Listener) -> Iterator[_Entered[FolderT]]:
    with contextlib.ExitStack() as stack:
        place = asked.resume if asked.resume is not None else asked.out
        if place is not None:
            results = stack.enter_context(result_folder(place, listener=listener))
            folder = asked.kind(path=results.path, uri=results.uri)
            if asked.resume is not None:
                start = asked.resumed(folder, asked.given)
                start.refuse_renaming(asked.name, what=folder.what)
                yield _Entered(results=results, start=start)
                return
            if asked.new or folder.is_finished(report=asked.report) or not asked.is_asked_again(folder):
                yield _Entered(results=results, start=new_run(folder, asked.given))
                return
        else:
            found = None if asked.new else _unfinished(stack, asked, listener)
            if found is None:
                results = enter_free_folder(stack, asked.name or "distill", listener)
                yield _Entered(results=results, start=new_run(asked.kind(path=results.path), asked.given))
                return
            results, folder = found, asked.kind(path=found.path)
        tell_going_on(folder.what, folder.shown, listener)
        yield _Entered(results=results, start=asked.resumed(folder, asked.given), by_itself=True)


def _unfinished(
    stack: contextlib.ExitStack, asked: Asked[FolderT], listener: Listener
) -> ResultFolder | None:
    """The newest run of the same command where that was interrupted and nobody is at work on it."""
    for path in newest_folders(asked.name or "distill"):
        if asked.is_asked_again(asked.kind(path=path)):
            if asked.kind(path=path).is_finished(report=asked.report):
                return None
            with contextlib.suppress(BusyError):
                return stack.enter_context(result_folder(path, listener=listener))
    return None


def is_asked_again(
    folder: RunFolder,
    given: Mapping[str, object],
    *,
    name: str | None = None,
    table: str = TrainingConfig.table,
    free: Collection[str] = (),
) -> bool:
    """Whether the run in `folder` was begun with these settings, `free` ones aside, and this name; `table`
    is that of its training settings.
    """
    if not folder.is_begun:
        return False
    try:
        begun = as_begun(read_settings(folder.path / folder.settings_file), table)
    except UsageError:
        return False  # damaged: nothing to go on with
    same_name = name is None or begun.identity.get("name", name) == name
    return same_name and begun.is_asked_again(given, free=free)


def tell_going_on(what: str, shown: Path | str, listener: Listener) -> None:
    """Say that a command goes on with its earlier part."""
    message = f"going on with the unfinished {what} in {shown}; --new begins another one"
    listener(Notice(level="info", message=message))


def recorded_data(start: Start[FolderT], data: str | None) -> str:
    """The recordings of a run: those that the command names, else those that it was begun with.

    Raises UsageError where neither is known.
    """
    found = data if data is not None else start.identity.get("data")
    if found is None:
        raise UsageError(
            f"{start.folder.shown} does not say which recordings it is of: give them again, before --resume"
        )
    return found


@contextlib.contextmanager
def marking(folder: RunFolder) -> Iterator[None]:
    """Say of an error within whether the same command goes on after it."""
    try:
        yield
    except KeyboardInterrupt:
        raise CancelledError("stopped by Ctrl-C") from None
    except UsageError:
        raise
    except DistillError as error:
        error.goes_on = error.goes_on or folder.is_begun or (folder.path / PIPELINE).exists()
        raise
