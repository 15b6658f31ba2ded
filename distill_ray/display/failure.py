"""A listener that fails must not end a run, nor do so unseen; nor must a reader that goes away. Standard
library only.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import TextIO

from distill_ray.foreign import printable


def report_failure(what: str, error: Exception) -> None:
    """One line on stderr: which listener failed, why and where; the run goes on without it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    with suppress(OSError):
        why = f"{type(error).__name__}: {error}{where}"
        line = printable(f"warning: the {what} failed and is off ({why}); the run does without it.")
        print(line, file=sys.stderr, flush=True)


def forget(stream: TextIO) -> None:
    """Let what is still buffered, and all that comes, go nowhere, so that no later flush fails or waits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
