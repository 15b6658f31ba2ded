"""Two-way post between the driver and rank 0: events out, the request to stop in.

`Mailbox` is a Ray actor that takes no resources. Rank 0's `Outbox` posts from a thread of its own, so that
neither an event nor the question whether to stop ever waits inside a training step; the driver polls
`collect`.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import get_current_placement_group

Record = dict[str, Any]

_POLL_S = 0.1


class Mailbox:
    """Keeps what one side said until the other asks; runs as a Ray actor (see `open_mailbox`)."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._rank0: Any = None
        self._group: Any = None
        self._stop = False

    def hello(self, rank0: Any, group: Any) -> None:
        """Rank 0 (its actor handle) has begun its loop in the placement group `group`."""
        self._rank0, self._group = rank0, group

    def post(self, records: list[Record]) -> bool:
        """Add event records; answers whether the run shall stop."""
        self._records.extend(records)
        return self._stop

    def collect(self) -> tuple[list[Record], Any]:
        """The event records since the last call, in order; and rank 0's handle, None before its loop."""
        records, self._records = self._records, []
        return records, self._rank0

    def group(self) -> Any:
        """The placement group of the ranks; None before rank 0's loop."""
        return self._group

    def request_stop(self) -> None:
        self._stop = True


@contextlib.contextmanager
def open_mailbox(kind: type[Any] = Mailbox) -> Iterator[Any]:
    """The actor handle of a new mailbox of this kind on the driver's node."""
    node = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    mailbox = ray.remote(num_cpus=0, label_selector=node)(kind).remote()
    try:
        yield mailbox
    finally:
        with contextlib.suppress(RayError):
            ray.kill(mailbox)


class Outbox:
    """Rank 0's side: `post` returns at once, `stop_requested` reads the last answer."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._waiting: deque[Record] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._stop = False
        mailbox.hello.remote(ray.get_runtime_context().current_actor, get_current_placement_group())
        self._thread = threading.Thread(target=self._exchange, name="outbox", daemon=True)
        self._thread.start()

    def post(self, record: Record) -> None:
        self._waiting.append(record)
        self._wake.set()

    def stop_requested(self) -> bool:
        return self._stop

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
                self._stop = ray.get(self._mailbox.post.remote(records))
            except RayError:
                return  # the driver is gone, and Ray ends this worker
            if closing:
                return
