"""Run one function over many items in threads, with progress in the caller's thread and a prompt stop.

Threads, because libsndfile, numpy, torch and Arrow release the interpreter lock; a process for each core
would cost 250 MB and two seconds just to import torch. `prepare.py` hashes and decodes with it, or with
another `Mapper`: `runtime/spread.py` has one that uses the nodes of a cluster.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from distill_ray.threads import usable_cores

Progress = Callable[[int, int, str], None]
"""Called in the caller's thread with files done, files in this phase, and what is being done."""

MOST_WORKERS = 16
"""Threads used at most by default: each may hold a full decoding buffer."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Job:
    """What a running function tells its caller (`tick`) and asks of it (`check`)."""

    def __init__(self, ticks: queue.SimpleQueue[Future[Result] | None]) -> None:
        self._ticks = ticks
        self._stop = threading.Event()

    def tick(self) -> None:
        """One more file is done."""
        self._ticks.put(None)

    def check(self) -> None:
        """Raises `Stopped` when the caller has given up; call it often."""
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """Make every `check` raise."""
        self._stop.set()


class Stopped(Exception):  # noqa: N818 - not an error: the caller's own exception is the one that is seen
    """Ends a function whose result nobody waits for."""


class Mapper(Protocol):
    """What `in_threads` does, here or elsewhere; functions, items and results can be pickled."""

    def __call__(
        self,
        function: Callable[[Item, Job], Result],
        items: Sequence[Item],
        *,
        workers: int | None,
        files: int,
        what: str,
        on_progress: Progress | None,
    ) -> list[Result]: ...


def in_threads(
    function: Callable[[Item, Job], Result],
    items: Sequence[Item],
    *,
    workers: int | None,
    files: int,
    what: str,
    on_progress: Progress | None,
) -> list[Result]:
    """`function(item, job)` of every item, in order.

    `files` is how often the functions will tick together. The first exception, Ctrl-C included, stops the
    others at their next `check` and is raised once they have ended.
    """
    messages: queue.SimpleQueue[Future[Result] | None] = queue.SimpleQueue()
    job = Job(messages)
    done, running = 0, len(items)
    with ThreadPoolExecutor(workers or min(MOST_WORKERS, usable_cores())) as pool:
        try:
            futures = [pool.submit(function, item, job) for item in items]
            for future in futures:
                future.add_done_callback(messages.put)
            while running:
                message = messages.get()
                if message is not None:
                    message.result()
                    running -= 1
                    continue
                done += 1
                if on_progress:
                    on_progress(done, files, what)
            return [future.result() for future in futures]
        except BaseException:
            job.stop()
            pool.shutdown(cancel_futures=True)
            raise
