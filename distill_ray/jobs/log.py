"""The log of a running job as it grows, over the WebSocket of Ray's Jobs API.

A thread follows it, because the one who shows it also has to ask for the job's state; a connection that
breaks is made again and goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from urllib.parse import quote

from distill_ray.jobs.client import ANSWER_WITHIN_S, JobClient

_AGAIN_AFTER_S = 1.0
_LOOK_UP_S = 0.25  # how often the thread asks whether to end
_LEAVE_WITHIN_S = 2.0


async def _refuse_redirect(*_: object) -> None:
    """The token, and what is believed of the job, are for the cluster's address only."""
    raise ConnectionError("the cluster's log is elsewhere")


class JobLog:
    """Whole lines of the log of `job_id`, from its beginning; a context manager."""

    def __init__(self, client: JobClient, job_id: str) -> None:
        self._client = client
        self._path = f"/api/jobs/{quote(job_id, safe='')}/logs/tail"
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._received = 0  # characters of the log, over all connections
        self._rest = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-log", daemon=True)

    def __enter__(self) -> JobLog:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self._thread.join(_LEAVE_WITHIN_S)

    def lines(self, wait_s: float) -> Iterator[str]:
        """What has come in, waiting at most `wait_s` for the first line."""
        with contextlib.suppress(queue.Empty):
            yield self._lines.get(timeout=wait_s)
            while True:
                yield self._lines.get_nowait()

    def _run(self) -> None:
        import aiohttp

        while not self._stopping.is_set():
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                asyncio.run(self._follow())
            self._stopping.wait(_AGAIN_AFTER_S)

    async def _follow(self) -> None:
        import aiohttp  # comes with ray[default]

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_WITHIN_S)
        to_skip = self._received  # every connection begins with the first line
        traces = aiohttp.TraceConfig()
        traces.on_request_redirect.append(_refuse_redirect)
        async with (
            aiohttp.ClientSession(
                headers=self._client.headers, timeout=timeout, trace_configs=[traces]
            ) as session,
            session.ws_connect(
                f"{self._client.address}{self._path}",
                max_msg_size=0,
                heartbeat=30.0,
                timeout=aiohttp.ClientWSTimeout(ws_close=_LOOK_UP_S),
            ) as socket,
        ):
            while not self._stopping.is_set():
                try:
                    message = await socket.receive(_LOOK_UP_S)
                except TimeoutError:
                    continue
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                text = message.data[to_skip:]
                to_skip = max(0, to_skip - len(message.data))
                self._take(text)

    def _take(self, text: str) -> None:
        self._received += len(text)
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._lines.put(line)
