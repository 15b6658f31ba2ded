"""Sending a command to a cluster as a job: its arguments, the package itself, and never any audio.

    here:            cli/submit.py ─► checks, in seconds ─► the package (once for each content) ─► Jobs API
    on the cluster:  remote_probe.py (are the data there, can results be written?) && python -m distill_ray …

Ray stops a job with SIGTERM and, after a time that the job's own environment sets, SIGKILL: ours is long
enough for a last checkpoint, so a stop from any client or from the dashboard keeps the work.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import shlex
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from distill_ray.errors import ClusterError, UsageError
from distill_ray.events.lines import EVENTS_VARIABLE
from distill_ray.jobs.client import ClusterFacts, JobClient
from distill_ray.threads import SLEEP
from distill_ray.uri import redacted

STOP_WITHIN_S = 600  # for the last step, checkpoint, export and upload
_PACKAGE = Path(__file__).resolve().parents[1]
_MOST_BYTES = 20 * 2**20  # Ray's own limit is 100 MiB; the package has well under one
# A job without files gets a folder of its own too: else it runs where Ray was started, and Ray's workers
# would import what lies there rather than the package that was sent.
_NO_FILES = {"README": b"The folder of a job that distill-ray submit has sent.\n"}
_DATA = ("py.typed", "report/page.*")  # as in pyproject.toml
_PROBES, _RUNS = "python -P -m distill_ray.jobs.remote_probe ", "exec python -P -m distill_ray "
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A command to run on a cluster.

    arguments: those of `distill-ray`, with paths and URIs as the cluster sees them. files: small ones of the
    client by the name that the arguments use. reads, writes: what the cluster must see and be able to write.
    output: the folder or URI of the results, which `jobs fetch` reads.
    """

    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    output: str = ""
    pip: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    gpus: float | None = None


def submit_job(
    client: JobClient,
    request: JobRequest,
    facts: ClusterFacts,
    on_wait: Callable[[str], None] | None = None,
) -> str:
    """Send the job; returns its id, which is its name. `on_wait` hears why it takes long.

    Raises UsageError for a name that is taken or cannot be one and for a URI with credentials, ClusterError
    where the cluster has less than the entrypoint asks for or does not take the job.
    """
    check_name(request.name)
    for text in (*request.arguments, *request.reads, *request.writes, request.output):
        if redacted(text) != text:
            raise UsageError(
                f"{redacted(text)} has credentials in it, which the cluster would store and show; "
                "set them in the environment of its nodes"
            )
    _check_entrypoint(request, facts, str(client.address))
    runtime: dict[str, Any] = {"env_vars": _environment(request)}
    if not _brings_itself(request.pip):
        runtime["py_modules"] = [send_package(client)]
    runtime["working_dir"] = _sent(client, _archive(request.files or _NO_FILES))
    if request.pip:
        runtime["pip"] = list(request.pip)
    body = {
        "submission_id": request.name,
        "entrypoint": entrypoint(request),
        "runtime_env": runtime,
        "metadata": {
            "distill_ray": metadata.version("distill-ray"),
            "command": request.arguments[0],
            "output": request.output,
        },
        "entrypoint_num_cpus": request.cpus,
        "entrypoint_num_gpus": request.gpus,
    }
    return client.submit({key: value for key, value in body.items() if value is not None}, on_wait)


def new_name(command: str) -> str:
    """A name for a job that the user did not name: train-3f9a2c."""
    return f"{command}-{secrets.token_hex(3)}"


def check_name(name: str) -> None:
    """Raise UsageError where `name` cannot be a job's id, a folder and a file at once."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a job: use at most 100 letters, digits, dots, dashes and underscores, "
            "a letter or digit first"
        )


def entrypoint(request: JobRequest) -> str:
    """The shell line that Ray runs: the probe, then the command in the shell's place, to get the signals."""
    command = f"{_RUNS}{shlex.join(request.arguments)}"
    if not request.reads and not request.writes:
        return command
    wanted = json.dumps({"reads": request.reads, "writes": request.writes})
    return f"{_PROBES}{shlex.quote(wanted)} && {command}"


def asked_command(entrypoint: str) -> str:
    """What was submitted, as it is written by hand, of a job's shell line; that line of another program's."""
    begin, runs, arguments = entrypoint.partition(_RUNS)
    ours = runs and (not begin or begin.startswith(_PROBES))
    return f"distill-ray {arguments}" if ours else entrypoint


def send_package(client: JobClient) -> str:
    """Bring this program to the cluster, unless it is there; returns the URI for `py_modules`."""
    return _sent(client, package_archive())


def package_archive() -> bytes:
    """The package's own source as a zip archive, the same bytes for the same source.

    An editable installation lies in a project of which everything else stays here: only modules of the
    package are sent, and of them no links, which may lead out of it.
    """
    sources = {str(path.relative_to(_PACKAGE.parent)): path.read_bytes() for path in _modules(_PACKAGE)}
    archive = _archive(sources)
    if len(archive) > _MOST_BYTES:
        raise ClusterError(f"the package at {_PACKAGE} is over {_MOST_BYTES >> 20} MiB and is not sent")
    return archive


def _modules(package: Path) -> Iterator[Path]:
    """The files that Python imports as `package` and its packages, and the data that an installation has."""
    for path in sorted(package.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir() and path.name.isidentifier() and (path / "__init__.py").is_file():
            yield from _modules(path)
        elif (path.suffix == ".py" and path.stem.isidentifier()) or path in _data():
            yield path


def _data() -> set[Path]:
    return {path for pattern in _DATA for path in _PACKAGE.glob(pattern)}


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # of 1980: the name of the package is a sum over its bytes
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _sent(client: JobClient, archive: bytes) -> str:
    return client.upload(f"_ray_pkg_{hashlib.sha256(archive).hexdigest()[:40]}.zip", archive)


def _environment(request: JobRequest) -> dict[str, str]:
    return {
        **SLEEP,
        **request.environment,
        EVENTS_VARIABLE: "1",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WITHIN_S),
    }


def _brings_itself(requirements: Sequence[str]) -> bool:
    """Whether a requirement installs this program, so that it need not be sent."""
    names = (re.split(r"[^A-Za-z0-9._-]", each.strip(), maxsplit=1)[0] for each in requirements)
    return any(re.sub(r"[-_.]+", "-", name).lower() == "distill-ray" for name in names)


def _check_entrypoint(request: JobRequest, facts: ClusterFacts, address: str) -> None:
    for flag, wanted, kind in (
        ("--entrypoint-cpus", request.cpus, "CPU"),
        ("--entrypoint-gpus", request.gpus, "GPU"),
    ):
        has = facts.resources.get(kind, 0.0)
        if wanted is not None and wanted > has:
            raise ClusterError(f"{flag} asks for {wanted:g} {kind}s and the cluster at {address} has {has:g}")
