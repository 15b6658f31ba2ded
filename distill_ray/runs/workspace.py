"""Where the results of a command go: a local or shared folder, or a URI with a local folder as its workshop.

    with result_folder("s3://bucket/run", listener=listener) as results:
        …                                 work in results.path; everything appears at the URI

One process at a time works in a local folder, which a lock ensures. Object stores have no locks: nothing
keeps two machines from working on the same URI.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from distill_ray.bundle import read_manifest
from distill_ray.errors import BundleError, DistillError, StorageError, UsageError
from distill_ray.events.records import Event, Notice, PipelinePlan, RunStarted, SweepStarted
from distill_ray.runs.run_folder import ANOTHER_OUT, free_folders
from distill_ray.storage.checkpoints import working_folder
from distill_ray.storage.filesystem import folder_of, joined, name_of, patiently
from distill_ray.storage.lock import LOCK_NAME, LockedError, folder_lock
from distill_ray.storage.mirror import Mirror
from distill_ray.storage.storage import Entry, Storage, open_storage
from distill_ray.storage.uploaded import open_checkpoints
from distill_ray.training.worker import Listener
from distill_ray.uri import is_uri, shown_uri

Place = str | os.PathLike[str]

# What to do about a prior's folder, which has no --out.
BESIDE_MODEL = (
    "a prior's run is kept beside its model, so make that place writable or copy the model to another folder"
)

_PATIENCE_S = 60.0
_HASTE_S = 5.0  # after an error or Ctrl-C


class BusyError(UsageError):
    """Another process works in the folder."""


@dataclass(frozen=True, kw_only=True)
class ResultFolder:
    """A folder of results while a command works on it.

    path: where to work. uri: where it all shall be, None where that is `path`. `inner` is one below another
    (the training of a pipeline): reports call it by its path, and the outer one looks after its files.
    """

    path: Path
    uri: str | None
    mirror: Mirror | None = field(default=None, repr=False)
    inner: bool = False

    @property
    def shown(self) -> Path | str:
        """What reports call it."""
        return self.shown_as(self.path)

    def shown_as(self, path: Path) -> Path | str:
        """What reports call `path`, which is in this folder."""
        if self.uri is None or self.inner:
            return path
        return joined(self.uri, *path.relative_to(self.path).parts)

    @property
    def checkpoints_uri(self) -> str | None:
        """For `launch`."""
        return None if self.uri is None else joined(self.uri, "checkpoints")

    def below(self, name: str) -> ResultFolder:
        """The one called `name` within it, for `result_folder`."""
        uri = None if self.uri is None else joined(self.uri, name)
        return ResultFolder(path=self.path / name, uri=uri, mirror=self.mirror, inner=True)

    def attended(self, listener: Listener) -> Listener:
        """`listener`, which also hears of trouble with the URI, and at which URI a run's folder appears."""
        mirror = self.mirror
        if mirror is None or self.inner:
            return listener

        def attend(event: Event) -> None:
            for notice in mirror.notices():
                listener(notice)
            listener(self._located(event))

        return attend

    def _located(self, event: Event) -> Event:
        if isinstance(event, RunStarted | SweepStarted | PipelinePlan):
            folder = Path(event.output_dir)
            if folder.is_relative_to(self.path):
                return replace(event, uri=str(self.shown_as(folder)))
        return event


@contextlib.contextmanager
def result_folder(
    place: Place | ResultFolder, *, listener: Listener, path: Path | None = None, advice: str = ANOTHER_OUT
) -> Iterator[ResultFolder]:
    """The folder at a local path or URI, or below another one, which this process has for itself meanwhile.

    A URI is written to first, as a test; what is there already is brought to the local folder (of
    checkpoints only what `launch` asks for), and what is made there appears at the URI every few seconds and
    in the end. The local folder (`path` or one in the cache) goes when all of it is there. `advice` is what
    an error says to do about a folder that cannot be written.

    Raises BusyError where another process has it; UsageError where it cannot be written; StorageError where
    the results did not get there in the end, which is not raised in the place of another error.
    """
    if isinstance(place, ResultFolder):
        with _locked(place.path, str(place.path), advice, listener), _pushed(place, listener):
            yield place
        return
    text = os.fspath(place)
    if is_uri(text):
        storage = open_storage(text, holds="the results", error=UsageError, attempts=1)
        if storage.local is None:
            storage.check_writable()
            with _at_uri(storage.uri, path or working_folder(storage.uri), listener, advice) as results:
                yield results
            return
        text = str(storage.local)
    folder = Path(text).expanduser().resolve()
    with _locked(folder, text, advice, listener):
        yield ResultFolder(path=folder, uri=None)


def enter_free_folder(stack: contextlib.ExitStack, name: str, listener: Listener) -> ResultFolder:
    """The first of runs/NAME, runs/NAME-2, … that is not taken and in which no other process is at work."""
    for folder in free_folders(name):
        with contextlib.suppress(BusyError):
            return stack.enter_context(result_folder(folder.path, listener=listener))
    raise AssertionError("unreachable: there is no end of names")


@contextlib.contextmanager
def _at_uri(uri: str, folder: Path, listener: Listener, advice: str) -> Iterator[ResultFolder]:
    with _locked(folder, uri, advice, listener), contextlib.closing(Mirror(folder, uri)) as mirror:
        mirror.pull()
        mirror.start()
        results = ResultFolder(path=folder, uri=uri, mirror=mirror)
        with _pushed(results, listener):
            yield results
        _remove_content(folder)


@contextlib.contextmanager
def _pushed(results: ResultFolder, listener: Listener) -> Iterator[None]:
    try:
        yield
    except BaseException:
        try:
            _push(results, _HASTE_S)
        except StorageError as error:
            listener(Notice(level="warning", message=str(error)))
        raise
    _push(results, _PATIENCE_S)


def _push(results: ResultFolder, patience_s: float) -> None:
    if results.mirror is None:
        return  # made where it stays
    try:
        checkpoints = open_checkpoints(results.path / "checkpoints", results.checkpoints_uri, patience_s)
        if checkpoints.newest() is not None:
            try:
                checkpoints.settle()
                checkpoints.flush()
            finally:
                checkpoints.close()
        results.mirror.push(patience_s)
    except DistillError as error:
        raise StorageError(
            f"{error}; what was made is kept in {results.path} on this machine, where --resume {results.uri} "
            "uploads it once that answers again"
        ) from error


@contextlib.contextmanager
def _locked(folder: Path, shown: str, advice: str, listener: Listener) -> Iterator[None]:
    def warn(message: str) -> None:
        listener(Notice(level="warning", message=message))

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder, None, warn))
        except LockedError as error:
            raise BusyError(
                f"another process is at work in {shown}; wait for it, or choose another folder"
            ) from error
        except FileExistsError as error:
            raise UsageError(f"{shown} is a file; give a folder for results") from error
        except OSError as error:
            raise UsageError(
                f"the run folder {shown} cannot be written ({error.strerror}); {advice}"
            ) from error
        yield


def _remove_content(folder: Path) -> None:
    """All but the lock, which its holder removes."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK_NAME:
            entry.unlink()


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A `.distill` file to be changed: `path` is the file itself, or a copy of what is at `uri`."""

    path: Path
    uri: str | None
    storage: Storage | None = None
    name: str = ""
    before: Entry | None = None

    @property
    def shown(self) -> Path | str:
        """What reports call it."""
        return self.uri or self.path

    @property
    def prior_run(self) -> str:
        """Where the run of its prior is kept: beside it."""
        place = str(self.path) if self.uri is None else self.uri
        return joined(folder_of(place), f"{name_of(place).removesuffix('.distill')}.prior")

    def refuse_replacing(self) -> None:
        """Raise UsageError where the file has a prior. Only its header is read."""
        if read_manifest(self.path).has_prior:
            raise UsageError(f"{self.shown} already has a prior; give --overwrite to replace it")

    def put(self) -> None:
        """The file has been changed: replace what is at the URI.

        Raises StorageError where that fails, or where somebody else has changed it meanwhile.
        """
        storage, size = self.storage, self.path.stat().st_size
        if storage is None:
            return

        def replace() -> None:
            there = storage.entry(self.name)
            if there != self.before and (there is None or there.bytes != size):
                raise StorageError(
                    f"{self.shown} was changed by somebody else meanwhile and is left as it is; "
                    f"the file with the prior is {self.path} on this machine"
                )
            with self.path.open("rb") as file:
                storage.upload(file, self.name)

        with ThreadPoolExecutor(1) as pool:  # an interrupt must not strike within an upload
            pool.submit(patiently, replace, patience_s=_PATIENCE_S).result()


def open_model(model: Place) -> ModelFile:
    """The model at a path or URI. Raises BundleError where it cannot be fetched."""
    text = os.fspath(model)
    if not is_uri(text):
        return ModelFile(path=Path(text).resolve(), uri=None)
    try:
        folder, name = folder_of(text), name_of(text)
    except ValueError as error:
        raise BundleError(f"{shown_uri(text)} {error}") from error
    storage = open_storage(folder, holds="the model", error=BundleError)
    if storage.local is not None:
        return ModelFile(path=(storage.local / name).resolve(), uri=None)
    before = storage.entry(name)
    if before is None:
        raise BundleError(f"there is no model at {text}")
    here = working_folder(text)
    here.mkdir(parents=True, exist_ok=True)
    storage.download(name, here / name)
    return ModelFile(path=here / name, uri=text, storage=storage, name=name, before=before)
