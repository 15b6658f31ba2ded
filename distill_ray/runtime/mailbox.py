"""Two-way post between a driver and the processes that train: records out, the request to stop in.

`Mailbox` is a Ray actor that takes no resources: one for the ranks of a run, of which rank 0 sends, or one
for all trials of a search. A sender's `Outbox` posts from a thread of its own, so that neither an event nor
the question whether to stop ever waits inside a training step; the driver polls `collect`.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from distill_ray.runtime.ray_internals import on_node
from distill_ray.training.worker import StopFlag

Record = dict[str, Any]

RANK_0 = "rank 0"
"""The sender of a run's mailbox; a search's are called by their trials."""
_POLL_S = 0.1


class Mailbox:
    """Keeps what one side said until the other asks; runs as a Ray actor (see `open_mailbox`)."""

    def __init__(self) -> None:
        self._records: list[tuple[str, Record]] = []
        self._actors: dict[str, Any] = {}
        self._groups: dict[str, list[Any]] = {}
        self._stopped: set[str] = set()
        self._all_stopped = False
        self._steps = 0

    def hello(self, sender: str, actor: Any) -> bool:
        """`sender` has begun in `actor`; answers whether it shall stop at once."""
        self._actors[sender] = actor
        return self._stops(sender)

    def hold(self, sender: str, group: Any) -> None:
        """The ranks of `sender` run in the placement group `group`."""
        self._groups.setdefault(sender, []).append(group)

    def post(self, sender: str, records: list[Record]) -> tuple[bool, int]:
        """Add records of `sender`; answers whether it shall stop, and after how many steps in all (0: nobody
        has said).
        """
        self._records.extend((sender, record) for record in records)
        return self._stops(sender), self._steps

    def collect(self) -> list[tuple[str, Record]]:
        """(sender, record) since the last call; those of one sender in order."""
        records, self._records = self._records, []
        return records

    def release(self, sender: str) -> list[Any]:
        """The placement groups that `sender` had since the last call."""
        return self._groups.pop(sender, [])

    def request_stop(self, sender: str | None = None) -> None:
        """Have `sender`, or else every one, stop after its step."""
        if sender is None:
            self._all_stopped = True
        else:
            self._stopped.add(sender)

    def say_steps(self, steps: int) -> None:
        """Have every one make so many steps in all."""
        self._steps = steps

    def actors(self) -> dict[str, Any]:
        """The actor that each sender began in last; some may have ended."""
        return self._actors

    def _stops(self, sender: str) -> bool:
        return self._all_stopped or sender in self._stopped


@contextlib.contextmanager
def open_mailbox() -> Iterator[Any]:
    """The actor handle of a new mailbox on the driver's node."""
    node = on_node(ray.get_runtime_context().get_node_id())
    mailbox = ray.remote(num_cpus=0, label_selector=node)(Mailbox).remote()
    try:
        yield mailbox
    finally:
        with contextlib.suppress(RayError):
            ray.kill(mailbox)


class Outbox:
    """The side of `sender`: `post` returns at once, `stop_requested` and `steps` read the last answer."""

    def __init__(self, mailbox: Any, sender: str) -> None:
        self._mailbox = mailbox
        self._sender = sender
        self._waiting: deque[Record] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._stop, self._steps = False, 0
        self._thread = threading.Thread(target=self._exchange, name="outbox", daemon=True)
        self._thread.start()

    def post(self, record: Record) -> None:
        self._waiting.append(record)
        self._wake.set()

    def stop_requested(self) -> bool:
        return self._stop

    def steps(self) -> int:
        return self._steps

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what is left and end the thread."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _exchange(self) -> None:
        while True:
            self._wake.wait(_POLL_S)
            self._wake.clear()
            closing = self._closing
            records = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._stop, self._steps = ray.get(self._mailbox.post.remote(self._sender, records))
            except RayError:
                return  # the driver is gone, and Ray ends this worker
            if closing:
                return


class RemoteStop(StopFlag):
    """Set when the driver says so."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def requested(self) -> bool:
        return self._outbox.stop_requested()

    def steps(self) -> int:
        return self._outbox.steps()
