"""The `pyarrow.fs` file system behind a path or URI, and what its errors mean.

`storage.py` is built on it. Whatever does not answer is given up after seconds: the clients' own limits are
minutes.
"""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from distill_ray.uri import Uri, is_uri, parse_uri

T = TypeVar("T")

_CONNECT_S = 2.0
_SILENCE_S, _PROBED_SILENCE_S = 15.0, 3.0  # servers may think for seconds over the end of a long upload
_REGION_S = 3.0
_AWS_ERROR = re.compile(r"AWS Error (\w+) during (\w+) operation(?:[^:]*): (.*)", re.DOTALL)
_GCS_ERROR = re.compile(r"google::cloud::Status\((\w+): (.*)", re.DOTALL)
_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID")
_TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING"
    r"|UNAVAILABLE|DEADLINE_EXCEEDED|HTTP response code: 5\d\d|cut off"
)


@dataclass(frozen=True, kw_only=True)
class Located:
    """`root` is the path in `filesystem`; `local` the same as a path of this machine where it is one."""

    filesystem: Any
    root: str
    uri: str
    local: Path | None


def locate(place: str | os.PathLike[str], *, attempts: int = 3) -> Located:
    """The file system and path of a local path or URI. Nothing is created or read.

    attempts: how often a request that gets no answer is made in all; with 1, it is given up after seconds.

    Raises ValueError with half a sentence that goes on from the URI.
    """
    text = os.fspath(place)
    if not is_uri(text):
        path = Path(text).expanduser().absolute()
        return Located(filesystem=pafs.LocalFileSystem(), root=str(path), uri=text, local=path)
    uri = parse_uri(text)
    try:
        if uri.scheme == "s3":
            filesystem, root = _s3(uri, attempts), f"{uri.container}/{uri.key}"
        elif uri.scheme in ("gs", "gcs"):
            filesystem, root = _gcs(), f"{uri.container}/{uri.key}"
        else:
            filesystem, root = pafs.FileSystem.from_uri(text)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"is not a place that pyarrow can reach: {reason(error)}") from error
    local = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None
    return Located(filesystem=filesystem, root=root.rstrip("/"), uri=str(uri), local=local)


def absolute(place: str) -> str:
    """A path or URI that means the same in every folder."""
    return place if is_uri(place) else str(Path(place).expanduser().absolute())


def folder_of(place: str) -> str:
    """The path or URI of the folder that a path or URI lies in. Raises ValueError as `parse_uri`."""
    return parse_uri(place).parent if is_uri(place) else place.rpartition("/")[0]


def name_of(place: str) -> str:
    """The last part of a path or URI. Raises ValueError as `parse_uri`."""
    return parse_uri(place).name if is_uri(place) else place.rstrip("/").rpartition("/")[2]


def joined(place: str, *names: str) -> str:
    """What lies below a path or URI. Raises ValueError for a URI that cannot be one."""
    if is_uri(place):
        return parse_uri(place).below(*names)
    return "/".join([place.rstrip("/"), *names])


def _s3(uri: Uri, attempts: int) -> Any:
    options = uri.query
    endpoint = (
        options.get("endpoint_override")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    return pafs.S3FileSystem(
        region=options.get("region") or _region(uri.container, endpoint),
        endpoint_override=endpoint,
        scheme=options.get("scheme"),
        connect_timeout=_CONNECT_S,
        request_timeout=_PROBED_SILENCE_S if attempts == 1 else _SILENCE_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def _region(bucket: str, endpoint: str | None) -> str:
    """As the environment says; else the bucket is asked, which other servers than Amazon's do not need."""
    said = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if said or endpoint:
        return said or "us-east-1"
    pool = ThreadPoolExecutor(1)
    try:
        found: str = pool.submit(pafs.resolve_s3_region, bucket).result(_REGION_S)
        return found
    except TimeoutError as error:
        raise OSError(
            f"Amazon S3 did not say within {_REGION_S:g} s where the bucket {bucket} is; set AWS_REGION, or "
            "AWS_ENDPOINT_URL for another server"
        ) from error
    finally:
        pool.shutdown(wait=False)


def _gcs() -> Any:
    return pafs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=2))


def reason(error: Exception) -> str:
    """What a file system's error says, in a few words."""
    text = " ".join(str(error).split())
    aws, gcs = _AWS_ERROR.search(text), _GCS_ERROR.search(text)
    if aws:
        code, detail = aws[1], aws[3].partition(" (Request ID")[0]
        return _aws_reason(code, detail, text)
    if gcs:
        return _gcs_reason(gcs[1], gcs[2].partition(" error_info=")[0])
    if isinstance(error, OSError) and error.strerror and "AWS" not in text:
        return error.strerror
    return text[:300]


def _aws_reason(code: str, detail: str, text: str) -> str:
    bucket = re.search(r"bucket '([^']*)'", text)
    if code == "NO_SUCH_BUCKET":
        return f"there is no bucket {bucket[1] if bucket else 'of that name'}"
    if code in _REFUSED or "InvalidAccessKeyId" in text or "HTTP response code: 403" in text:
        return f"the server refuses the credentials or their rights ({code}); look at AWS_ACCESS_KEY_ID"
    if code == "NETWORK_CONNECTION":
        said = detail.rpartition("Details: ")[2]
        return f"the server does not answer ({said[:150]}); look at AWS_ENDPOINT_URL and the network"
    return f"{code}: {detail[:150]}"


def _gcs_reason(code: str, detail: str) -> str:
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or "OAuth2" in detail:
        return "Google Cloud Storage refuses or lacks credentials; look at GOOGLE_APPLICATION_CREDENTIALS"
    if code == "NOT_FOUND":
        return "there is no such bucket"
    return f"{code}: {detail[:150]}"


def is_transient(error: BaseException) -> bool:
    """Whether the same may succeed later: the network or the server, not what was asked of it."""
    cause = error.__cause__
    return _TRANSIENT.search(str(error)) is not None or (cause is not None and is_transient(cause))


def patiently(action: Callable[[], T], *, patience_s: float, pause_s: float = 1.0) -> T:
    """The value of `action`, which is tried again for `patience_s` while its errors are transient."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return action()
        except Exception as error:
            if not is_transient(error) or time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 10.0)
