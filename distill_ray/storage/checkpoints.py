"""The checkpoints of a run, in-process and under Ray alike: `RUN/checkpoints/latest`, and a copy at a URI.

The workers of `runtime/` keep them with `Checkpoints`; `uploaded.py` adds the copy. No Ray is needed for any
of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
from pathlib import Path

from safetensors import SafetensorError

from distill_ray.config.cache import cache_root
from distill_ray.errors import CheckpointError
from distill_ray.events.records import Notice
from distill_ray.regular_file import read_regular
from distill_ray.storage.atomic import WriteCheckpoint, newest_folder, remove_folder, replace_folder

_NAME = "name"
MODEL_FILES = ("best.safetensors", "run.json")
"""What a model is made of; a checkpoint is written in this order, and the rest after them."""
_WEIGHTS = "weights"
CHECKPOINT_NAME = re.compile(r"\d{6,18}-[0-9a-f]{4}")  # as `Checkpoints.keep` makes them
_FULL_BYTES = 16 << 20  # with less than this free, a failed write is put down to a full disk


# What ends every sentence about a node that does not see the run's folder.
GIVE_SHARED = "give --out a folder that all nodes share, or a URI (s3://…, gs://…)"


class Checkpoints:
    """The newest checkpoint of a run, in `folder`/latest.

    One that cannot be written (a full disk) leaves the one before it as it was and does not end a training of
    hours: it is said through `notices`. Where the last one of a run cannot be, `finish` keeps the weights
    alone in `folder`/weights, and raises only if these do not fit either.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._notices: list[Notice] = []
        self._failure: CheckpointError | None = None
        self._unkept: WriteCheckpoint | None = None

    @property
    def latest(self) -> Path:
        """Where the newest one is kept."""
        return self.folder / "latest"

    def newest(self) -> Path | None:
        """The newest complete one on this machine."""
        return newest_folder(self.latest)

    def newest_name(self) -> str:
        """Its name, "000012-5f0c": a number that grows, and what tells two of the same number apart; "" for
        none."""
        newest = self.newest()
        try:
            name = read_regular(newest / _NAME, 100).decode() if newest is not None else ""
        except (OSError, ValueError):
            return ""  # kept by a plain LocalWorker, or damaged
        return name if CHECKPOINT_NAME.fullmatch(name) else ""

    def settle(self) -> None:
        """Bring the newest one of the run here, before a loop begins and after it has ended."""

    def keep(self, write: WriteCheckpoint, *, last: bool = False) -> bool:
        """Make what `write` puts into an empty folder the newest one; False where that failed. The training
        goes on, unless this is its `last`."""
        number = int(self.newest_name().partition("-")[0] or 0) + 1

        def write_named(folder: Path) -> None:
            write(folder)
            (folder / _NAME).write_text(f"{number:06d}-{secrets.token_hex(2)}")

        try:
            replace_folder(self.latest, write_named)
        except (OSError, SafetensorError) as error:
            first = self._failure is None
            failed = f"checkpoint could not be written to {self.folder} ({self._why(error)})"
            there = self.newest() is not None
            ahead = (
                "go on with --resume from the one before it"
                if there
                else "begin anew: there is none before it"
            )
            self._failure = CheckpointError(f"the last {failed}; make room and {ahead}")
            self._failure.__cause__ = error
            self._unkept = write
            kept = ", and the one before it is kept" if there else ""
            message = (f"the last {failed}" if last else f"a {failed}; the training went on") + kept
            if first:
                self._notices.append(Notice(level="warning", message=message))
            return False
        remove_weights(self.folder)
        if self._failure is not None:
            self._failure = self._unkept = None
            self._notices.append(Notice(level="info", message=f"checkpoints are kept in {self.folder} again"))
        return True

    def notices(self) -> list[Notice]:
        """What there was to say since the last call."""
        said, self._notices = self._notices, []
        return said

    def finish(self) -> None:
        """The loop has ended. Raises CheckpointError where neither its last checkpoint nor its weights can be
        kept.
        """
        if self._failure is None:
            return
        assert self._unkept is not None
        try:
            replace_folder(self.folder / _WEIGHTS, functools.partial(_write_weights, self._unkept))
        except (OSError, SafetensorError):
            raise self._failure from self._failure.__cause__
        message = (
            f"of the end of this run only the weights are kept, for the model: {self.folder} had no room for "
            "a checkpoint to go on from"
        )
        self._notices.append(Notice(level="warning", message=message))

    def flush(self) -> None:
        """Wait until the newest one is wherever it shall be. Raises CheckpointError where it cannot be."""

    def close(self) -> None:
        """Let go of threads."""

    def _why(self, error: Exception) -> str:
        with contextlib.suppress(OSError):  # a folder that could not even be made
            if shutil.disk_usage(self.folder).free < _FULL_BYTES:
                return "the disk is full"
        return (isinstance(error, OSError) and error.strerror) or str(error).partition("\n")[0][:200]


def _write_weights(write: WriteCheckpoint, folder: Path) -> None:
    """What a whole checkpoint begins with. Raises what `write` does where not even that is there."""
    try:
        write(folder)
    except (OSError, SafetensorError):
        if not {path.name for path in folder.iterdir()} > set(MODEL_FILES):  # the next one was begun
            raise
    for path in folder.iterdir():
        if path.name not in MODEL_FILES:
            path.unlink()


def model_folder(checkpoints: Path, newest: Path | None) -> Path | None:
    """Where the weights of a run that has ended are: `newest`, or what was kept where that did not fit."""
    weights = checkpoints / _WEIGHTS
    return weights if weights.is_dir() and not weights.is_symlink() else newest


def only_weights(checkpoint: Path) -> Path:
    """Give up all of a checkpoint but its weights; where these are then. Raises OSError."""
    weights = checkpoint.parent / _WEIGHTS
    remove_folder(weights)
    checkpoint.rename(weights)
    for path in weights.iterdir():
        if path.name not in MODEL_FILES:
            path.unlink()
    return weights


def remove_weights(checkpoints: Path) -> None:
    """Remove the weights that were kept without a checkpoint; a link in their place stays."""
    with contextlib.suppress(OSError):
        remove_folder(checkpoints / _WEIGHTS)


def node_folder(folder: Path, uri: str | None) -> Path:
    """Where a node that has not got the run's `folder` of checkpoints keeps those of `uri`.

    Raises CheckpointError without a URI.
    """
    if uri is None:
        raise CheckpointError(f"the node {socket.gethostname()} does not see {folder}; {GIVE_SHARED}")
    return working_folder(uri)


def working_folder(uri: str) -> Path:
    """The folder of this machine in which that which goes to `uri` is made."""
    return cache_root() / "runs" / hashlib.sha256(uri.encode()).hexdigest()[:24]


def ray_storage(checkpoints: Path) -> Path:
    """The storage path for Ray Train or Tune, which must have one; nothing in it is needed later."""
    return checkpoints / "ray"


def remove_ray_storage(checkpoints: Path) -> None:
    """Remove what Ray has left; a link in its place stays."""
    shutil.rmtree(ray_storage(checkpoints), ignore_errors=True)


def empty_ray_storage(checkpoints: Path) -> None:
    """Let Ray begin without what it finds: state of a killed run, or what somebody has put there.

    Raises CheckpointError where that cannot be removed.
    """
    remove_ray_storage(checkpoints)
    place = ray_storage(checkpoints)
    if os.path.lexists(place):
        raise CheckpointError(f"{place} is in the way of Ray and cannot be removed; move it elsewhere")
