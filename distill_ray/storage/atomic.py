"""Whole files or none, and whole folders: made beside the target, fsynced, then moved into its place.

The one writer of files that replace others: models, codes, audio, manifests, shards, downloads, records.
Nobody can guess the temporary name or lay a link there, and no two writers share it. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from distill_ray.errors import BundleError, DistillError

WriteCheckpoint = Callable[[Path], None]

_TEMPORARY = re.compile(r"\.distill-[0-9a-f]{16}\.tmp")
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR
# What file systems answer that cannot fsync a folder, as some of networks and FUSE.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What file systems answer that are full."""
# What file systems answer that have no second name for a file.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def atomic_file(
    path: Path, *, error: type[DistillError] = BundleError, follow_link: bool = False
) -> Iterator[BinaryIO]:
    """As `replacing`. Raises `error` with a sentence where the file cannot be written."""
    try:
        with replacing(path, follow_link=follow_link) as file:
            yield file
    except NotRegularError as problem:
        raise error(
            f"{path} is not a regular file, so it cannot be replaced; choose another output path"
        ) from problem
    except OSError as problem:
        raise error(
            f"{path} cannot be written ({problem.strerror or problem}); "
            "choose another output path or make room there"
        ) from problem


class NotRegularError(OSError):
    """What is to be replaced is a folder, a device or a pipe."""


@contextlib.contextmanager
def replacing(path: Path, *, follow_link: bool = False) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of `path` when the block ends, and vanishes if it raises.

    The folder is made where it is missing. A file that is replaced hands on its permissions; a new one has
    those that the umask leaves. A link at `path` is replaced itself; with `follow_link`, which is for paths
    that the user named, the file that it leads to is. Writers at the same time never mix: the last to end
    wins. Raises OSError where the file cannot be written, NotRegularError for what is no file.
    """
    target = Path(os.path.realpath(path)) if follow_link else path
    temporary = temporary_beside(target)
    permissions = _permissions(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(temporary, _NEW_FILE, 0o666 if permissions is None else 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if permissions is not None:
                with contextlib.suppress(PermissionError):  # some network file systems let nobody
                    os.fchmod(file.fileno(), permissions)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def claim_file(path: Path, content: bytes) -> None:
    """Make the file `path` with all of `content` at once.

    Raises FileExistsError where something is there, also where another process makes it at the same time, and
    OSError where it cannot be written.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path, follow_symlinks=False)
        except OSError as problem:
            if problem.errno not in _NO_LINKS:
                raise
            with path.open("xb") as file:  # a kill may leave a part of it here
                file.write(content)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_folder(folder: Path, write: WriteCheckpoint) -> None:
    """Fill a new folder and put it in the place of `folder`.

    Whatever interrupts it, a power cut too, `newest_folder` then has all of the old one or all of the new
    one. Raises OSError, also where a link or a file lies in the way: neither is followed or removed.
    """
    _refuse_link(folder)
    new, old = _aside(folder)
    _remove_real(new)
    new.mkdir(parents=True)
    try:
        write(new)
        _sync_content(new)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove_real(new)  # half a checkpoint would fill a disk that is full
        raise
    if folder.exists():
        _remove_real(old)
        folder.rename(old)
    new.rename(folder)
    sync_folder(folder.parent)
    with contextlib.suppress(OSError):  # what stays of it is in the way of the next one, which says so
        _remove_real(old)


def newest_folder(folder: Path) -> Path | None:
    """`folder`, or what `replace_folder` had moved aside when it was interrupted between its two renames."""
    _, old = _aside(folder)
    return folder if folder.exists() else old if old.exists() else None


def remove_folder(folder: Path) -> None:
    """Remove what `replace_folder` has put there, so that `newest_folder` never has a part of it.

    Raises OSError as that does.
    """
    _refuse_link(folder)
    new, old = _aside(folder)
    _remove_real(new)
    _remove_real(old)
    if folder.exists():
        folder.rename(new)
        _remove_real(new)


def temporary_beside(target: Path) -> Path:
    """A path for what is going to be `target`; `is_temporary` knows its name."""
    return target.with_name(f".distill-{secrets.token_hex(8)}.tmp")  # short: long targets still fit


def is_temporary(name: str) -> bool:
    """Whether a file of that name is what a writer that was killed has left."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk. Raises OSError where they do not get there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _aside(folder: Path) -> tuple[Path, Path]:
    """Where the next one is made, and where the last one waits until that is in its place."""
    return folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link is in the place of a folder", str(folder))


def _remove_real(folder: Path) -> None:
    """Remove a folder that is there. Raises OSError where it is a link or none."""
    _refuse_link(folder)
    if os.path.lexists(folder):
        shutil.rmtree(folder)  # which follows no link within


def _sync_content(folder: Path) -> None:
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(where, name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(where))


def _permissions(target: Path) -> int | None:
    """Those of the file that is replaced, None where there is none. Raises NotRegularError."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        return None
    if not stat.S_ISREG(mode):
        raise NotRegularError(errno.EINVAL, "it is not a regular file")
    return stat.S_IMODE(mode) & 0o777
