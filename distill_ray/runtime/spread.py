"""Preparation of a corpus as tasks on all nodes of the cluster that this process is connected to.

`ClusterMapper` takes the place of `corpus.parallel.in_threads` and makes the same shards. `spread_codes.py`
encodes that way; `shared_nodes.py` knows which nodes can take part. Where they cannot, it is done here.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from distill_ray.corpus.parallel import Job, Progress, in_threads
from distill_ray.errors import ClusterError, first_line
from distill_ray.events.records import Event
from distill_ray.runtime.shared_nodes import nodes_that_share

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 3  # tasks submitted, for each one that can run
_TASKS_PER_CPU = 16  # so that the last ones end at about the same time
_ASK_S = 0.5
_END_S = 60.0


class ClusterMapper:
    """A `Mapper` for preparing the folder `data` to somewhere below `target`.

    A task of a node that is lost runs again on another. Raises what the function raises, ClusterError where
    its processes are lost again and again.
    """

    def __init__(self, data: str, target: Path, listener: Callable[[Event], None]) -> None:
        self._nodes = functools.cache(functools.partial(nodes_that_share, data, target, listener))

    def __call__(
        self,
        function: Callable[[Item, Job], Result],
        items: Sequence[Item],
        *,
        workers: int | None,
        files: int,
        what: str,
        on_progress: Progress | None,
    ) -> list[Result]:
        nodes = self._nodes() if items else None
        if nodes is None:
            return in_threads(
                function, items, workers=workers, files=files, what=what, on_progress=on_progress
            )
        size = -(-len(items) // (nodes.cpus * _TASKS_PER_CPU))
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_map_batch)
        results: list[list[Result]] = [[] for _ in batches]
        running: dict[Any, int] = {}
        waiting, done = deque(enumerate(batches)), 0
        with stoppable(running, what) as flag:
            while waiting or running:
                while waiting and len(running) < AHEAD * nodes.cpus:
                    number, batch = waiting.popleft()
                    running[task.remote(function, batch, flag)] = number
                for ended in ray.wait(list(running), timeout=_ASK_S)[0]:  # Ctrl-C waits for its end
                    results[running[ended]], ticks = ray.get(ended)
                    del running[ended]
                    done += ticks
                    if on_progress:
                        on_progress(done, files, what)
        return [result for batch_results in results for result in batch_results]


class _Flag:
    """Runs as an actor: whether the tasks shall stop."""

    def __init__(self) -> None:
        self._stop = False

    def stop(self) -> None:
        self._stop = True

    def is_set(self) -> bool:
        return self._stop


class TaskJob(Job):
    """The `Job` of a task: counts its ticks, and asks the flag now and then whether to stop."""

    def __init__(self, flag: Any) -> None:
        super().__init__(queue.SimpleQueue())
        self.ticks = 0
        self._flag = flag
        self._asked = time.monotonic()

    def tick(self) -> None:
        self.ticks += 1

    def check(self) -> None:
        if time.monotonic() - self._asked > _ASK_S:
            if ray.get(self._flag.is_set.remote()):
                self.stop()
            self._asked = time.monotonic()
        super().check()


def _map_batch(
    function: Callable[[Item, Job], Result], items: Sequence[Item], flag: Any
) -> tuple[list[Result], int]:
    job = TaskJob(flag)
    return [function(item, job) for item in items], job.ticks


@contextlib.contextmanager
def stoppable(running: Mapping[Any, object], what: str) -> Iterator[Any]:
    """A flag for tasks. An exception within stops those that are `running`, and is raised once they have
    ended, as it was in the task that it comes from.

    Not with `ray.cancel`: Ray 2.60 aborts the whole process where a task ends while it is being cancelled.
    """
    flag = ray.remote(num_cpus=0)(_Flag).remote()
    try:
        yield flag
    except BaseException as error:
        flag.stop.remote()
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_END_S)
        if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
            raise error.cause from None
        if isinstance(error, RayError):
            raise ClusterError(f"{what} on the cluster failed: {first_line(error)}") from error
        raise
    finally:
        ray.kill(flag)
