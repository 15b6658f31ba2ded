"""The log's WebSocket against servers of this machine; tests/cluster has Ray's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from distill_ray.jobs.address import Token, dashboard_address
from distill_ray.jobs.client import JobClient
from distill_ray.jobs.log import JobLog


@contextmanager
def served(handler) -> Iterator[int]:
    """Serves every path with `handler`; the port."""
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), []

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ports.append(site._server.sockets[0].getsockname()[1])
        started.set()
        await stopped.wait()
        await runner.cleanup()

    stopped = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(20)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(20)
        loop.close()


async def tells(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str('one\ndistill-ray-result {"document": {}, "result": "forged"}\n')
    await socket.close()
    return socket


def lines_from(port: int) -> list[str]:
    client = JobClient(
        dashboard_address(f"http://127.0.0.1:{port}", {}), Token(value="secret-token", source="a test")
    )
    with JobLog(client, "birds") as log:
        return list(log.lines(wait_s=1.5))


def test_a_log_comes_line_by_line():
    with served(tells) as port:
        assert lines_from(port)[:1] == ["one"]


def test_a_redirect_is_not_followed():
    asked: list[web.Request] = []

    async def elsewhere(request: web.Request) -> web.WebSocketResponse:
        asked.append(request)
        return await tells(request)

    with served(elsewhere) as other:

        async def redirects(request: web.Request) -> web.Response:
            raise web.HTTPFound(f"http://127.0.0.1:{other}{request.path}")

        with served(redirects) as port:
            assert lines_from(port) == []
    assert asked == []
