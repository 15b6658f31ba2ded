"""Ray's Jobs API over HTTP, with a time-out on every word and one sentence for every way to fail.

The client neither imports Ray nor needs a running one: Ray's own `JobSubmissionClient` waits for ever for a
peer that accepts and is silent, and takes seconds to import. `submit.py` and `follow.py` stand on this.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from typing import Any
from urllib.parse import quote

from distill_ray.errors import ClusterError, UsageError
from distill_ray.events import lines as job_lines
from distill_ray.jobs.address import DashboardAddress, Token
from distill_ray.jsonable import parse_json
from distill_ray.runtime.head_port import HEAD_PORT, is_head

# A dashboard needs milliseconds; with the start of Python, a user hears within 5 s.
ANSWER_WITHIN_S = 3.0
_CONNECT_LEAST_S = 1.0
# A cluster that has just started: its dashboard, its first node, and the agent that takes jobs.
STARTED_WITHIN_S = 60.0
BEGUN_WITHIN_S = 10.0
"""The same for a dashboard on this machine, of which no head tells that there will be one."""
_PAUSE_S = 0.5
_NO_AGENT = b"No available agent"
WORK_WITHIN_S = 60.0  # uploads and submissions, whose answer waits for work on the cluster
_OLDEST_PYTHON = (3, 11)
_LOG_FOLLOWS = ", last available logs"
_STATES = (
    "Job has not started yet.",
    "Job is currently running.",
    "Job was intentionally stopped.",
    "Job finished successfully.",
    "Job failed.",
)
"""What Ray says beside a state where it has nothing to say."""


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as the cluster knows it; `status` is Ray's, in small letters. Times in seconds since 1970.

    message: one line, the job's own words where it failed.
    """

    job_id: str
    status: str
    message: str
    started: float | None
    ended: float | None
    exit_code: int | None
    entrypoint: str
    metadata: Mapping[str, str]

    def is_over(self) -> bool:
        return self.status in ("stopped", "succeeded", "failed")


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """What a cluster is: versions and the sum of what its nodes have now."""

    ray_version: str
    python_version: str
    resources: Mapping[str, float]


class NothingListensError(ClusterError):
    """There is no dashboard at the address, or not yet."""


class JobClient:
    """Speaks to one cluster. Every method raises ClusterError where it does not answer as Ray does."""

    def __init__(self, address: DashboardAddress, token: Token | None) -> None:
        self.address = address
        self._token = token

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries; holds the token."""
        return {"Authorization": f"Bearer {self._token.value}"} if self._token is not None else {}

    def check(self, on_wait: Callable[[str], None] | None = None) -> ClusterFacts:
        """Say within seconds what would keep a job from working there.

        A cluster that has just started serves no dashboard or knows no node yet: that is waited for, once
        said to `on_wait`.

        Raises ClusterError where Ray's minor version is not this program's, Python is too old for it, or no
        node is known.
        """
        version = self._when_it_listens(on_wait)
        ray = version.get("ray_version") if isinstance(version, dict) else None
        if not isinstance(ray, str):
            raise self._not_ray()
        ours = metadata.version("ray")
        if _minor(ray) != _minor(ours):
            raise ClusterError(
                f"the cluster at {self.address} runs Ray {ray} and this program Ray {ours}: their minor "
                f"versions must be equal (pip install 'ray[default,train,tune]=={ours}' on the cluster)"
            )
        python = str(self._data("/api/v0/cluster_metadata").get("pythonVersion", ""))
        if python and _minor(python) < _OLDEST_PYTHON:
            raise ClusterError(
                f"the cluster at {self.address} runs Python {python}; distill-ray needs "
                f"{'.'.join(map(str, _OLDEST_PYTHON))} or newer there"
            )
        return ClusterFacts(ray_version=ray, python_version=python, resources=self._resources(on_wait))

    def _when_it_listens(self, on_wait: Callable[[str], None] | None) -> Any:
        """What the dashboard says of its version, once it is there where a head is or may be starting."""
        began, where = time.monotonic(), self.address
        while True:
            try:
                return self._json("GET", "/api/version")
            except NothingListensError:
                begun = self._has_head()
                patience_s = STARTED_WITHIN_S if begun else BEGUN_WITHIN_S if where.is_local else 0.0
                if time.monotonic() - began >= patience_s:
                    raise
            if on_wait:
                starting = f"the cluster at {where} is starting: waiting for its dashboard"
                perhaps = (
                    f"nothing listens at {where} yet: {patience_s:g} s are given to one that is starting"
                )
                on_wait(starting if begun else perhaps)
                on_wait = None
            time.sleep(_PAUSE_S)

    def _has_head(self) -> bool:
        """Whether a head answers on the dashboard's host: it does seconds before that."""
        try:
            return is_head(self.address.host, HEAD_PORT)
        except (OSError, UnicodeError):
            return False

    def _resources(self, on_wait: Callable[[str], None] | None) -> dict[str, float]:
        """What the living nodes have; the head is one, but a dashboard that has just started names none."""
        deadline = time.monotonic() + STARTED_WITHIN_S
        while True:
            found = self._data("/api/v0/nodes?detail=1&limit=10000").get("result")
            nodes = found.get("result", []) if isinstance(found, dict) else []
            try:
                alive = [node.get("resources_total") or {} for node in nodes if node.get("state") == "ALIVE"]
                if any(alive):
                    return {name: sum(node.get(name, 0.0) for node in alive) for name in {*chain(*alive)}}
            except (AttributeError, TypeError):
                raise self._not_ray() from None
            if time.monotonic() > deadline:
                raise ClusterError(f"the cluster at {self.address} names no node yet; try again in a moment")
            if on_wait:
                on_wait(f"the cluster at {self.address} is starting: waiting for its first node")
                on_wait = None
            time.sleep(_PAUSE_S)

    def jobs(self) -> list[JobRecord]:
        """All submitted jobs, the oldest first."""
        found = self._json("GET", "/api/jobs/")
        if not isinstance(found, list):
            raise self._not_ray()
        submitted = (item for item in found if not isinstance(item, dict) or item.get("submission_id"))
        jobs = [self._record(item) for item in submitted]
        return sorted(jobs, key=lambda job: job.started or 0.0)

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises UsageError where there is none of that id."""
        return self._record(self._of_job("GET", job_id))

    def _record(self, found: Any) -> JobRecord:
        try:
            return _record(found)
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise self._not_ray() from None

    def logs(self, job_id: str) -> str:
        """What the job has printed so far."""
        return str(self._of_job("GET", job_id, "/logs", within_s=WORK_WITHIN_S).get("logs", ""))

    def stop(self, job_id: str) -> None:
        """Ask Ray to end the job: SIGTERM, and SIGKILL when the job's own waiting time is over."""
        self._of_job("POST", job_id, "/stop", within_s=WORK_WITHIN_S)

    def submit(self, request: Mapping[str, Any], on_wait: Callable[[str], None] | None = None) -> str:
        """Post a job (`request` is Ray's); returns its id. Raises UsageError where the id is taken.

        A cluster that has just started has no agent yet that takes jobs: it is waited for, once said to
        `on_wait`.
        """
        content, deadline = json.dumps(request).encode(), time.monotonic() + STARTED_WITHIN_S
        while True:
            status, body = self._ask("POST", "/api/jobs/", content, WORK_WITHIN_S)
            if status < 500 or _NO_AGENT not in body or time.monotonic() > deadline:
                break
            if on_wait:
                on_wait(f"the cluster at {self.address} is starting: waiting for the agent that takes jobs")
                on_wait = None
            time.sleep(_PAUSE_S)
        if status != 200 and "already exists" in body.decode("utf-8", "replace"):
            name = request.get("submission_id")
            raise UsageError(f"the cluster already has a job named {name}; choose another --name")
        answer = self._decoded(status, body)
        if not isinstance(answer, dict) or "submission_id" not in answer:
            raise self._not_ray()
        return str(answer["submission_id"])

    def upload(self, package: str, content: bytes) -> str:
        """Bring a zip archive to the cluster, unless it has it; returns the URI for a runtime environment."""
        path = f"/api/packages/gcs/{package}"
        # Asking also keeps Ray from removing the package before the job has begun.
        status, body = self._ask("GET", path, None, ANSWER_WITHIN_S)
        if status == 404:
            status, body = self._ask("PUT", path, content, WORK_WITHIN_S)
        if status != 200:
            raise self._unexpected(status, body)
        return f"gcs://{package}"

    def _of_job(
        self, method: str, job_id: str, what: str = "", *, within_s: float = ANSWER_WITHIN_S
    ) -> dict[str, Any]:
        unknown = UsageError(
            f"the cluster at {self.address} knows no job {job_id!r}; distill-ray jobs list names all"
        )
        if not job_id.strip("."):  # it would be a part of the path that means something else
            raise unknown
        status, body = self._ask(method, f"/api/jobs/{quote(job_id, safe='')}{what}", None, within_s)
        if status == 404 and b"does not exist" in body:
            raise unknown
        answer = self._decoded(status, body)
        if not isinstance(answer, dict):
            raise self._not_ray()
        return answer

    def _data(self, path: str) -> dict[str, Any]:
        answer = self._json("GET", path)
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            raise self._not_ray()
        return data

    def _json(self, method: str, path: str) -> Any:
        return self._decoded(*self._ask(method, path, None, ANSWER_WITHIN_S))

    def _decoded(self, status: int, body: bytes) -> Any:
        if status != 200:
            raise self._unexpected(status, body)
        try:
            return parse_json(body)
        except ValueError:
            raise self._not_ray() from None

    def _ask(self, method: str, path: str, body: bytes | None, within_s: float) -> tuple[int, bytes]:
        """One request on a connection of its own. Follows no redirect: the token is for this address only."""
        where = self.address
        tunnel = " and the tunnel to it open" if where.is_local else ""
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        try:
            # A name may have several addresses, which are tried in turn.
            addresses = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
            each_s = max(_CONNECT_LEAST_S, ANSWER_WITHIN_S / len(addresses))
            connection = kind(where.host, where.port, timeout=each_s)
        except (socket.gaierror, UnicodeError):  # the latter of what can be no host's name
            raise ClusterError(f"there is no host named {where.host}: check --address") from None
        try:
            connection.connect()
            connection.sock.settimeout(within_s)
            connection.request(method, where.path + path, body, self.headers)
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionRefusedError:
            raise NothingListensError(
                f"nothing listens at {where}: is the cluster running{tunnel}?"
            ) from None
        except TimeoutError:
            raise ClusterError(
                f"{where} gives no answer within {within_s:g} s: check host and port, or open a tunnel "
                f"(ssh -L {where.port}:localhost:{where.port} {'HEAD' if where.is_local else where.host})"
            ) from None
        except ssl.SSLError as error:
            raise ClusterError(f"no secure connection to {where}: {error.reason or error}") from None
        except ConnectionError:  # a tunnel to nothing does that
            raise ClusterError(
                f"{where} ends the connection without an answer: is the cluster running{tunnel}?"
            ) from None
        except http.client.HTTPException:
            raise self._not_ray() from None
        except OSError as error:
            raise ClusterError(f"{where} cannot be reached: {error.strerror or error}") from None
        finally:
            connection.close()

    def _not_ray(self) -> ClusterError:
        return ClusterError(
            f"what answers at {self.address} is not a Ray dashboard: check host and port (usually 8265)"
        )

    def _unexpected(self, status: int, body: bytes) -> ClusterError:
        if status in (401, 403):
            if self._token is None:
                return ClusterError(
                    f"the cluster at {self.address} asks for a token: give --token-file, or set "
                    "RAY_AUTH_TOKEN_PATH"
                )
            return ClusterError(f"the cluster at {self.address} refuses the token of {self._token.source}")
        lines = body.decode("utf-8", "replace").strip().splitlines()
        if status == 404 or (lines and lines[0].lstrip().startswith("<")):
            return self._not_ray()
        # Ray answers with a traceback, whose last line is the reason.
        return ClusterError(
            f"the cluster at {self.address} answers {status}: {lines[-1] if lines else 'nothing more'}"
        )


def python_notice(facts: ClusterFacts) -> str | None:
    """A sentence where the job will run under another Python than the one at hand."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not facts.python_version or _minor(facts.python_version) == sys.version_info[:2]:
        return None
    return f"the cluster runs Python {facts.python_version} and this machine {ours}; the job uses the former"


def _record(found: Mapping[str, Any]) -> JobRecord:
    def seconds(key: str) -> float | None:
        return float(found[key] / 1000) if found.get(key) else None

    code = found.get("driver_exit_code")
    return JobRecord(
        job_id=str(found.get("submission_id") or found.get("job_id")),
        status=str(found.get("status", "")).lower(),
        message=_message(str(found.get("message") or "")),
        started=seconds("start_time"),
        ended=seconds("end_time"),
        exit_code=None if code is None else int(code),
        entrypoint=str(found.get("entrypoint", "")),
        metadata={str(key): str(value) for key, value in (found.get("metadata") or {}).items()},
    )


def _message(text: str) -> str:
    """One line of what Ray says beyond the state; its message ends with the log of a job that failed."""
    heard = [job_lines.parse_line(line) for line in text.split("\n")]
    errors = [said[1]["message"] for said in heard if said is not None and said[0] == "error"]
    first = text.strip().partition("\n")[0]
    for state in _STATES:
        first = first.removeprefix(state).strip()
    return errors[-1] if errors else first.partition(_LOG_FOLLOWS)[0]


def _minor(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)
