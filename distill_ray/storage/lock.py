"""A lock that processes of a machine (and, where the file system can, of several) share through a file.

On a file system without locks, as some of networks are, a file in the machine's own temporary folder stands
for it: that keeps out the processes of this machine, and what it does not keep out is said.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from distill_ray.regular_file import open_appending

LOCK_NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_told: set[Path] = set()  # folders whose file systems have no locks


class LockedError(Exception):
    """Another process has the lock."""


class _NoLocksError(Exception):
    """The file system has no locks."""


@contextlib.contextmanager
def folder_lock(
    folder: Path, on_wait: Callable[[], None] | None, on_weak: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock of `folder`, which is made where it is missing.

    While another process has it, `on_wait` is called once and then waited for; None raises LockedError.
    Where nothing but the lock is in the folder in the end, the lock goes, and the folder if it was made here.
    on_weak: told in a sentence, once for each folder, that only this machine's processes are kept out; None
    writes that to the log, from where it reaches stderr.

    Raises OSError where the folder cannot be made or written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with file_lock(folder / LOCK_NAME, on_wait, on_weak):
        try:
            yield
        finally:
            _remove_empty(folder, made)


@contextlib.contextmanager
def file_lock(
    path: Path, on_wait: Callable[[], None] | None, on_weak: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock that is the file `path`; as `folder_lock`."""
    try:
        handle = _locked(path, on_wait)
    except _NoLocksError:
        _tell(path.parent, on_weak or logging.getLogger(__name__).warning)
        handle = _locked_on_machine(path, on_wait)
    with handle:
        yield


def _tell(folder: Path, tell: Callable[[str], None]) -> None:
    if folder not in _told:
        _told.add(folder)
        tell(
            f"the file system of {folder} has no locks: other processes of this machine are kept out of "
            "there, those of other machines are not; use it from one machine at a time, or have it mounted "
            "with locks (NFS: its lock daemon must run; Lustre: -o flock)"
        )


def _locked_on_machine(path: Path, on_wait: Callable[[], None] | None) -> IO[bytes]:
    """A lock in the machine's temporary folder that stands for the one that is the file `path`."""
    folder = Path(tempfile.gettempdir()) / f"distill-ray-locks-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise OSError(
            errno.EACCES, f"{folder} is not this user's alone; remove it, or set TMPDIR to another folder"
        )
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    try:
        handle = _locked(folder / name, on_wait)
    except _NoLocksError:
        raise OSError(
            errno.ENOLCK, f"neither {path.parent} nor {folder} has locks; set TMPDIR to a folder of a disk"
        ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # its last holder may have removed it
        _opened(path).close()
    except BaseException:
        handle.close()
        raise
    return handle


def _locked(path: Path, on_wait: Callable[[], None] | None) -> IO[bytes]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _opened(path)
        try:
            _flock(handle, on_wait)
            if _is_still(path, handle):
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()  # its holder has removed it: lock the new one


def _opened(path: Path) -> IO[bytes]:
    try:
        return open_appending(path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(errno.EINVAL, f"the lock {path} is not a regular file; remove it") from error


def _flock(handle: IO[bytes], on_wait: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if on_wait is None:
            raise LockedError from error
        on_wait()
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _NoLocksError from error
        raise


def _is_still(path: Path, handle: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def _remove_empty(folder: Path, made: list[Path]) -> None:
    with contextlib.suppress(OSError):
        lock = folder / LOCK_NAME
        is_ours = [entry.name for entry in folder.iterdir()] == [LOCK_NAME] and not lock.lstat().st_size
        if is_ours:  # which nothing is ever written to
            lock.unlink()
            for each in made:
                each.rmdir()
