"""Whole files or none, and whole folders: made beside the target, then moved into its place.

Used by everything here that leaves a file for the user: `bundle/container.py` (models, codes) and
`generate/audio.py`. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from distill_ray.errors import BundleError, DistillError

WriteCheckpoint = Callable[[Path], None]


@contextlib.contextmanager
def atomic_file(path: Path, *, error: type[DistillError] = BundleError) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of `path` when the block ends, and vanishes if it raises.

    The folder is made where it is missing, a symbolic link is followed, and the file's mode is what the
    umask leaves. Writers at the same time never mix: the last to end wins. Raises `error` where the file
    cannot be written.
    """
    target = Path(os.path.realpath(path))
    # A random, short name: concurrent writers never share it and a long target name still fits.
    temporary = target.with_name(f".distill-{secrets.token_hex(8)}.tmp")
    try:
        if target.exists() and not target.is_file():
            raise error(f"{path} is not a regular file, so it cannot be replaced; choose another output path")
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as problem:
        raise error(
            f"{path} cannot be written ({problem.strerror or problem}); "
            "choose another output path or make room there"
        ) from problem


def replace_folder(folder: Path, write: WriteCheckpoint) -> None:
    """Fill a new folder and put it in the place of `folder`; an interruption leaves a complete one."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        write(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # half a checkpoint would fill a disk that is full
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def newest_folder(folder: Path) -> Path | None:
    """`folder`, or what `replace_folder` had moved aside when it was interrupted between its two renames."""
    old = folder.with_name(folder.name + ".old")
    return folder if folder.exists() else old if old.exists() else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
