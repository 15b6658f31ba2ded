"""Pictures of Ray's dashboard by a headless Chromium, driven through its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1400,900",
    "--remote-debugging-port=0",
)
COOKIE = "ray-authentication-token"  # in which the dashboard's log-in keeps the token


class Shots:
    """Pictures of pages of the dashboard at `url`, as PNG files in `folder`."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self._url, self._token, self._folder = url, token, folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, pages: Mapping[str, str], settle_s: float = 8.0) -> None:
        """One picture for each {file name: page}, such as {"job": "jobs/raysubmit_1"}."""
        profile = Path(tempfile.mkdtemp(prefix="dashboard-shots-"))
        browser = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            asyncio.run(self._visit(_port(profile), pages, settle_s))
        finally:
            browser.terminate()
            browser.wait(20)
            shutil.rmtree(profile, ignore_errors=True)

    async def _visit(self, port: int, pages: Mapping[str, str], settle_s: float) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                (page,) = (item for item in await answer.json() if item["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                numbers = itertools.count(1)

                async def call(method: str, **parameters: Any) -> dict[str, Any]:
                    number = next(numbers)
                    await socket.send_json({"id": number, "method": method, "params": parameters})
                    while True:
                        message = await socket.receive_json(timeout=60)
                        if message.get("id") == number:
                            assert "error" not in message, message
                            return dict(message["result"])

                host = urllib.parse.urlsplit(self._url).hostname
                await call("Network.setCookie", name=COOKIE, value=self._token, domain=host, path="/")
                for name, path in pages.items():
                    await call("Page.navigate", url=f"{self._url}/#/{path}")
                    await asyncio.sleep(settle_s)
                    shot = await call("Page.captureScreenshot", format="png")
                    (self._folder / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def _port(profile: Path, patience_s: float = 60.0) -> int:
    """Where Chromium listens, which it writes into its profile."""
    said = profile / "DevToolsActivePort"
    deadline = time.monotonic() + patience_s
    while not said.exists() or not said.read_text().strip():
        assert time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.2)
    return int(said.read_text().splitlines()[0])
