"""The small files of a run, made in a local folder and kept up to date at a URI by a thread.

`runs/workspace.py` uses it; checkpoints go their own way (`uploaded.py`). FOLDER/.mirror.json records each
file as it was here and there when they were last the same, so that the next start can tell on which side one
changed: what changed at the URI goes before what is here, for another machine may have gone on with the run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_ray.errors import DistillError, StorageError
from distill_ray.events.records import Notice
from distill_ray.jsonable import parse_json
from distill_ray.regular_file import read_regular
from distill_ray.storage.atomic import atomic_file
from distill_ray.storage.names import path_below
from distill_ray.storage.storage import Entry, open_storage

_STATE = ".mirror.json"
_SKIPPED = ("checkpoints", "corpus", "ray")  # folders that others look after, or that nobody needs
_PARTIAL = (".tmp", ".partial")
_APART_S = 5.0
_SHARE = 10.0  # passes take at most one part in this many of the time
_AGAIN_S = 1.0


class Mirror:
    """`folder` at `uri`. `pull` before `start`, `close` in the end."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._storage = open_storage(uri, holds="the results", error=StorageError)
        self._state = _read_state(folder / _STATE)
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._error: DistillError | None = None
        self._closing = False
        self._notices: list[Notice] = []
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def pull(self) -> None:
        """Bring here what has changed at the URI, and remove what was removed there. Raises StorageError."""
        there = {name: entry for name, entry in self._storage.files().items() if _is_mirrored(name)}
        for name in self._state.keys() - there.keys():
            self._here(name).unlink(missing_ok=True)
            del self._state[name]
        for name, entry in there.items():
            known = self._state.get(name)
            path = self._here(name)
            if known is None or known["there"] != _pair(entry) or not path.exists():
                self._storage.download(name, path)
                self._state[name] = {"here": _signature(path), "there": _pair(entry)}
        if self._state:  # else the folder stays empty, and goes if nothing is made
            self._save()

    def start(self) -> None:
        self._thread.start()

    def push(self, patience_s: float) -> None:
        """Have everything at the URI that is here now. Raises StorageError where that takes too long."""
        deadline = time.monotonic() + patience_s
        while True:
            with self._changed:
                self._asked += 1
                ticket = self._asked
                self._changed.notify_all()
                left = max(deadline - time.monotonic(), 0.1)
                passed = self._changed.wait_for(lambda: self._done >= ticket, left)  # noqa: B023
                error = self._error
            if passed and error is None:
                return
            if time.monotonic() + _AGAIN_S > deadline:
                raise error or StorageError(f"the upload to {self._storage.uri} takes too long")
            time.sleep(_AGAIN_S)

    def notices(self) -> list[Notice]:
        """What there was to say since the last call."""
        said, self._notices = self._notices, []
        return said

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._closing:
            ticket, started = self._asked, time.monotonic()
            error = self._pass()
            self._say(error)
            with self._changed:
                self._done, self._error = ticket, error
                self._changed.notify_all()
                pause_s = max(_APART_S, _SHARE * (time.monotonic() - started))
                self._changed.wait_for(lambda: self._closing or self._asked > self._done, pause_s)

    def _pass(self) -> DistillError | None:
        """Upload what has changed; what went wrong."""
        try:
            for path in _files(self._folder):
                name = path.relative_to(self._folder).as_posix()
                signature = _signature(path)
                if name in self._state and self._state[name]["here"] == signature:
                    continue
                with path.open("rb") as file:
                    entry = self._storage.upload(file, name)
                self._state[name] = {"here": signature, "there": _pair(entry)}
                self._save()
        except FileNotFoundError:
            return None  # gone since it was listed
        except OSError as error:
            return StorageError(f"{self._folder} cannot be read ({error.strerror or error})")
        except DistillError as error:
            return error
        return None

    def _say(self, error: DistillError | None) -> None:
        if error is not None and self._error is None:
            message = f"{error}; the work went on, and so did the attempts to upload"
            self._notices.append(Notice(level="warning", message=message))
        elif error is None and self._error is not None:
            self._notices.append(Notice(level="info", message=f"{self._storage.uri} is up to date again"))

    def _here(self, name: str) -> Path:
        return path_below(self._folder, name, origin=self._storage.uri, error=StorageError)

    def _save(self) -> None:
        with atomic_file(self._folder / _STATE, error=StorageError) as file:
            file.write(json.dumps(self._state).encode())


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return {
        name: known
        for name, known in (state.items() if isinstance(state, dict) else ())
        if isinstance(known, dict) and known.keys() >= {"here", "there"}
    }


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(names):
            if _is_mirrored(name):
                yield Path(where) / name


def _is_mirrored(name: str) -> bool:
    parts = name.split("/")
    return not (
        any(part.startswith(".") for part in parts)
        or any(part in _SKIPPED for part in parts[:-1])
        or name.endswith(_PARTIAL)
    )


def _signature(path: Path) -> list[int]:
    status = path.stat()
    # With the inode, for a clock may go back: what was replaced is another file whatever its time.
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _pair(entry: Entry) -> list[int]:
    return [entry.bytes, entry.written_ns]
