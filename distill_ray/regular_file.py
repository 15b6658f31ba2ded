"""Files that lie where others may write: no pipe is waited for, no link is appended to, and no document fills
the memory.

What a run, a search, a corpus or the cache has left is read through here. Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

DOCUMENT_BYTES = 256 << 20
"""The longest JSON document that is read: the manifest of a corpus of half a million recordings."""


def open_regular(path: Path, *, follow_link: bool = True) -> BinaryIO:
    """The file `path` for reading. Raises OSError, also where it is no regular file: a pipe that nobody
    writes to would be waited for, a device might have no end.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_link else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        check_descriptor(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_appending(path: Path) -> BinaryIO:
    """The file `path` for reading and for writing at its end, made where it is missing. Raises OSError, also
    where it is a link, which might lead to a file that is none of ours, or no regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # the latter of a socket
            raise _not_regular(path) from error
        raise
    try:
        check_descriptor(descriptor, path)
        return os.fdopen(descriptor, "a+b")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most_bytes: int = DOCUMENT_BYTES) -> bytes:
    """All of the file. Raises OSError, also where it has more than `most_bytes`."""
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is longer than {most_bytes:,} bytes", str(path))
    return content


def check_regular(path: Path) -> None:
    """Raise OSError where `path`, which a library will open, is no regular file."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise _not_regular(path)


def check_descriptor(descriptor: int, path: Path) -> None:
    """Raise OSError where what was opened as `path` is no regular file."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise _not_regular(path)


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file", str(path))
