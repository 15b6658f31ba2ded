"""A lock that processes of a machine (and, where the file system can, of several) share through a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

LOCK_NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems: go on without


class LockedError(Exception):
    """Another process has the lock."""


@contextlib.contextmanager
def folder_lock(folder: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock of `folder`, which is made where it is missing.

    While another process has it, `on_wait` is called once and then waited for; None raises LockedError.
    Where nothing but the lock is in the folder in the end, the lock goes, and the folder if it was made here.

    Raises OSError where the folder cannot be made or written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with file_lock(folder / LOCK_NAME, on_wait):
        try:
            yield
        finally:
            _remove_empty(folder, made)


@contextlib.contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock that is the file `path`; as `folder_lock`."""
    handle = _locked(path, on_wait)
    with handle:
        yield


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
    """The file, made where it is missing. Raises OSError for a link, a pipe and what else is no file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"the lock {path} is a link; remove it", str(path)) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, f"the lock {path} is not a regular file; remove it", str(path))
        return os.fdopen(descriptor, "r+b", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _flock(handle: IO[bytes], on_wait: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if on_wait is None:
            raise LockedError from error
        on_wait()
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_still(path: Path, handle: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def _remove_empty(folder: Path, made: list[Path]) -> None:
    with contextlib.suppress(OSError):
        if [entry.name for entry in folder.iterdir()] == [LOCK_NAME]:
            (folder / LOCK_NAME).unlink()
            for each in made:
                each.rmdir()
