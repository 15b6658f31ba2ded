"""The checkpoints of a run wherever they are kept: in a folder, or at a URI too.

`open_checkpoints` gives the ones or the others. A thread uploads, which outlives outages of the storage:

    URI/latest.json     the name of the newest complete checkpoint, and its files; written last
    URI/NAME/…          the files of the checkpoint NAME
    FOLDER/.published   the names that this machine knows to be, or to have been, at the URI

latest.json never names an upload that was cut off. What is at the URI goes before what is here, unless
what is here is known to have come after it: another machine may have gone on with the run.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from distill_ray.errors import CheckpointError, StorageError
from distill_ray.events.records import Notice
from distill_ray.jsonable import parse_json
from distill_ray.regular_file import read_regular
from distill_ray.storage.atomic import WriteCheckpoint, atomic_file, remove_folder, replace_folder
from distill_ray.storage.checkpoints import CHECKPOINT_NAME, Checkpoints, remove_ray_storage, remove_weights
from distill_ray.storage.filesystem import patiently
from distill_ray.storage.lock import file_lock
from distill_ray.storage.names import fault_of
from distill_ray.storage.storage import Storage, open_storage

PATIENCE_S = 60.0
POINTER = "latest.json"
_PUBLISHED = ".published"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
_REMEMBERED = 8


class UploadedCheckpoints(Checkpoints):
    """Checkpoints in `folder` with a copy at `uri`; one process at a time writes new ones."""

    def __init__(self, folder: Path, uri: str, *, patience_s: float) -> None:
        super().__init__(folder)
        self._uri = uri
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._waiting: _Upload | None = None  # what the URI has not got yet
        self._current: _Upload | None = None  # what is on its way
        self._closing = False
        self._last = False  # whether the loop ends with the newest one
        self._longest_pause_s = _LONGEST_PAUSE_S
        self._trouble = ""
        self._thread: threading.Thread | None = None

    def settle(self) -> None:
        """Fetch the checkpoint at the URI unless the one here is as new; one that is newer here is uploaded.

        An outage is sat out for a while. Raises CheckpointError after it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / ".lock", lambda: None):  # the other ranks of this node
            there = patiently(self._pull, patience_s=self._patience_s)
        if self.newest_name() not in ("", there):
            self._publish()

    def keep(self, write: WriteCheckpoint, *, last: bool = False) -> bool:
        self._last = last
        kept = super().keep(write, last=last)
        if kept:
            self._publish()
        return kept

    def flush(self) -> None:
        with self._changed:
            self._longest_pause_s = _FIRST_PAUSE_S  # somebody waits
            there = self._changed.wait_for(lambda: self._waiting is None, self._patience_s)
            self._longest_pause_s = _LONGEST_PAUSE_S
        if not there:
            raise CheckpointError(self._trouble or f"the upload to {self._uri} takes too long")

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _storage(self) -> Storage:
        return open_storage(self._uri, holds="the checkpoints", error=CheckpointError)

    def _pull(self) -> str:
        """Make `latest` what the URI has, where that is newer; the name that the URI has."""
        storage, here = self._storage(), self.newest_name()
        pointer = _read_pointer(storage)
        if pointer is None:
            if here in self._known():  # somebody has deleted the run there
                remove_folder(self.latest)
            return ""
        name = str(pointer["name"])
        if name != here and (not here or name not in self._known()):
            replace_folder(self.latest, lambda new: _download(storage, pointer, new))
        self._remember(name)
        return name

    def _publish(self) -> None:
        """Have the thread upload the newest checkpoint; it takes the place of one that still waits."""
        newest = self.newest()
        assert newest is not None
        upload = _Upload(
            name=self.newest_name(),
            files={file.name: file.open("rb") for file in sorted(newest.iterdir())},
        )
        with self._changed:
            if self._waiting is not None and self._waiting is not self._current:
                self._waiting.close()
            self._waiting = upload
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoint-upload", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                if self._waiting is None or self._closing:
                    break
                upload = self._current = self._waiting
            try:
                self._upload(upload)
            except (CheckpointError, OSError) as error:
                self._say_trouble(error)
                with self._changed:
                    self._end(upload, done=False)
                    self._changed.wait_for(lambda: self._closing, min(pause_s, self._longest_pause_s))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S
                self._say_well()
                with self._changed:
                    self._end(upload, done=True)
                    self._changed.notify_all()
        if self._waiting is not None:
            self._waiting.close()

    def _end(self, upload: _Upload, *, done: bool) -> None:
        self._current = None
        if done and self._waiting is upload:
            self._waiting = None
        if self._waiting is not upload:
            upload.close()

    def _upload(self, upload: _Upload) -> None:
        storage = self._storage()
        before = _read_pointer(storage)
        facts = {}
        for name, file in upload.files.items():
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            facts[name] = {"bytes": storage.upload(file, f"{upload.name}/{name}").bytes, "sha256": digest}
        self._remember(upload.name)  # before it is there: should this process end in between, it is ours
        with storage.writing(POINTER) as stream:
            stream.write(json.dumps({"name": upload.name, "files": facts}, indent=1).encode())
        keep = {upload.name, str(before["name"]) if before else "", POINTER}
        for path in storage.files():
            if _is_uploaded(path) and path.partition("/")[0] not in keep:
                storage.remove(path)

    def _say_trouble(self, error: Exception) -> None:
        if not self._trouble:
            going_on = "the attempts went on" if self._last else "the training and the attempts went on"
            message = f"{error}; {going_on}"
            self._notices.append(Notice(level="warning", message=message))
        self._trouble = str(error)

    def _say_well(self) -> None:
        if self._trouble:
            self._trouble = ""
            self._notices.append(Notice(level="info", message=f"{self._uri} has the newest checkpoint again"))

    def _known(self) -> list[str]:
        try:
            known = parse_json(read_regular(self.folder / _PUBLISHED))
        except (OSError, ValueError):
            return []
        return [name for name in known if isinstance(name, str)] if isinstance(known, list) else []

    def _remember(self, name: str) -> None:
        known = self._known()
        if name not in known:
            with atomic_file(self.folder / _PUBLISHED, error=CheckpointError) as file:
                file.write(json.dumps([*known[1 - _REMEMBERED :], name]).encode())


def open_checkpoints(folder: Path, uri: str | None, patience_s: float | None = None) -> Checkpoints:
    """The checkpoints in `folder`, with a copy at `uri` where one is given.

    patience_s: how long an outage of the storage is sat out where nothing can go on without it; `PATIENCE_S`.
    """
    if uri is None:
        return Checkpoints(folder)
    return UploadedCheckpoints(folder, uri, patience_s=PATIENCE_S if patience_s is None else patience_s)


def newest_checkpoint(folder: Path, uri: str | None) -> Path | None:
    """As `settle`; during an outage the newest one on this machine, where there is one."""
    checkpoints = open_checkpoints(folder, uri, patience_s=5.0)
    try:
        checkpoints.settle()
    except CheckpointError:
        if checkpoints.newest() is None:
            raise
    finally:
        checkpoints.close()
    return checkpoints.newest()


def settle(folder: Path, uri: str | None = None) -> Path | None:
    """The newest checkpoint of the run, fetched from `uri` where that has a newer one; None for none.

    Raises CheckpointError where it cannot be fetched.
    """
    checkpoints = open_checkpoints(folder, uri)
    try:
        checkpoints.settle()
        return checkpoints.newest()
    finally:
        checkpoints.close()


def discard(folder: Path, uri: str | None) -> None:
    """Forget every checkpoint, here and at `uri`, and leave what else is there.

    Raises StorageError, and OSError where a link is in the place of a folder.
    """
    if uri is not None:
        storage = open_storage(uri, holds="the checkpoints", error=StorageError)
        for name in sorted(filter(_is_uploaded, storage.files()), reverse=True):  # the pointer first
            storage.remove(name)
    remove_folder(Checkpoints(folder).latest)
    remove_weights(folder)
    remove_ray_storage(folder)
    (folder / _PUBLISHED).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """A checkpoint by its open files, which stay what they are when `latest` is replaced."""

    name: str
    files: dict[str, BufferedReader]

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def _is_uploaded(path: str) -> bool:
    """Whether the object `path` below the URI is of a checkpoint, or the pointer to one: nobody else's."""
    name, _, file = path.partition("/")
    return path == POINTER or (CHECKPOINT_NAME.fullmatch(name) is not None and file != "")


def _read_pointer(storage: Storage) -> dict[str, Any] | None:
    content = storage.read_bytes(POINTER)
    if content is None:
        return None
    try:
        pointer = parse_json(content)
        sums = {name: entry["sha256"] for name, entry in pointer["files"].items()}
        if any(fault_of(name, folders=False) for name in (pointer["name"], *sums)):
            raise ValueError("a path in place of a name")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{POINTER} at {storage.uri} is damaged ({error}); start a new run") from error
    return {"name": pointer["name"], "sums": sums}


def _download(storage: Storage, pointer: dict[str, Any], folder: Path) -> None:
    for name, sha256 in pointer["sums"].items():
        storage.download(f"{pointer['name']}/{name}", folder / name)
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise CheckpointError(f"{name} of the checkpoint at {storage.uri} is damaged; start a new run")
