"""From what went wrong in a worker to the one sentence that the user gets.

A worker's exception crosses processes as `LoopError`, which holds text and, for a `DistillError`, what is
needed to raise the same one again in the driver.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distill_ray.errors import DistillError, TrainingError
from distill_ray.runtime.ray_internals import loop_exception
from distill_ray.storage.atomic import replacing
from distill_ray.uri import redacted

# What the ranks that are left say when one of them is gone.
_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)

# torch has no class of its own for it on a CPU.
_NO_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory")


class LoopError(Exception):
    """An exception of a training loop, made of nothing but picklable plain values.

    `known`: the class of a `DistillError` and its attributes, None for any other exception. `lost_peer`: it
    says that another rank is gone, and not what is wrong.
    """

    def __init__(
        self,
        message: str,
        trace: str,
        known: tuple[type[DistillError], dict[str, Any]] | None,
        lost_peer: bool,
    ) -> None:
        super().__init__(message, trace, known, lost_peer)
        self.message, self.trace, self.known, self.lost_peer = message, trace, known, lost_peer

    def __str__(self) -> str:
        return self.message

    @classmethod
    def of(cls, error: Exception) -> LoopError:
        known = (type(error), dict(vars(error))) if isinstance(error, DistillError) else None
        text = str(error).strip()
        if known:
            message = text
        elif _is_want_of_memory(error):
            message = "not enough memory for a training step; use a smaller --batch-size or a smaller model"
        else:
            message = f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
        lost_peer = known is None and (
            isinstance(error, dist.DistError)
            or (isinstance(error, RuntimeError) and _LOST_PEER.search(text) is not None)
        )
        return cls(message, "".join(traceback.format_exception(error)), known, lost_peer)

    def original(self) -> DistillError | None:
        """The same `DistillError` as in the worker."""
        if self.known is None:
            return None
        kind, attributes = self.known
        error = kind.__new__(kind)
        error.args = (self.message,)
        vars(error).update(attributes)
        return error


def _is_want_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def by_rank(error: BaseException) -> tuple[BaseException, ...]:
    """What is behind `error` of Ray Train's `fit`: each failed rank's exception, else the controller's."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    ranks = tuple(loop_exception(failures[rank]) for rank in sorted(failures))
    return ranks or (getattr(error, "controller_failure", error),)


def to_distill_error(error: BaseException, log: Path) -> DistillError:
    """The error to raise in the driver; an unforeseen one is written to `log` with its traceback."""
    ranks = by_rank(error)
    loops = [failure for failure in ranks if isinstance(failure, LoopError)]
    for failure in loops:
        original = failure.original()
        if original is not None:
            return original
    if loops:
        message, trace = loops[0].message, "\n".join(failure.trace for failure in loops)
    else:
        message, trace = meaning(ranks[0]), "".join(traceback.format_exception(error))
    try:
        with replacing(log) as file:
            file.write(redacted(trace).encode("utf-8", "backslashreplace"))
    except OSError as unwritable:
        return TrainingError(f"the training stopped: {message} (and {log} cannot be written: {unwritable})")
    return TrainingError(f"the training stopped: {message} (the traceback is in {log})")


def meaning(error: BaseException) -> str:
    """What the end of a worker process means, in words."""
    text = str(error)
    # Not "OOM": Ray lists it among the possible causes whenever a process was killed.
    if "OutOfMemory" in type(error).__name__ or "OutOfMemory" in text:
        return "a worker process was killed for want of memory"
    if "ActorDied" in type(error).__name__ or "actor died" in text.lower() or "actor is dead" in text.lower():
        return "a worker process was killed"
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
