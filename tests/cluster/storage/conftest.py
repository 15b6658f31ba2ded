"""An S3 server (moto) on loopback, which can be counted, cut and shut down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KEY = "AKIAEXAMPLE"


class S3:
    """An S3 server whose content outlives `stop` and `start`.

    requests: (method, path) of each so far. cut: where it is true of a request, the connection breaks off.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.cut: Callable[[str, str], bool] = lambda method, path: False
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self.port = 0
        self.start()

    def start(self) -> None:
        from werkzeug.serving import WSGIRequestHandler, make_server

        class QuietHandler(WSGIRequestHandler):
            def log(self, *_: Any) -> None:
                pass

        self._server = make_server(
            "127.0.0.1", self.port, self._gate, threaded=True, request_handler=QuietHandler
        )
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, service: str = "s3") -> Any:
        import boto3

        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1")

    def _gate(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if self.cut(method, path):
            environ["wsgi.input"].read(1 << 16)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return self._app(environ, start_response)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        server = S3()
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        server.client().create_bucket(Bucket="bucket")
        yield server
        server.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has seen nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
