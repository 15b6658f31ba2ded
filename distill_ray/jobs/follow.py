"""Submitted jobs from the client's side: following one, stopping one, fetching what one has made.

`cli/submit.py` and `cli/jobs.py` call these. Events in a job's log reach the listener as they would in a
local run (`events/lines.py`).
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.errors import BundleError, ClusterError, UsageError
from distill_ray.events.lines import parse_line
from distill_ray.events.records import (
    Event,
    Listener,
    Notice,
    PriorStepMetrics,
    VQStepMetrics,
    from_record,
)
from distill_ray.jobs.client import JobClient, JobRecord
from distill_ray.jobs.log import JobLog
from distill_ray.jobs.submit import STOP_WITHIN_S, send_package
from distill_ray.storage.filesystem import folder_of, name_of
from distill_ray.uri import shown_uri

if TYPE_CHECKING:
    from distill_ray.storage.storage import Storage

_LOOK_EVERY_S = 0.5
_LAST_LINES_WITHIN_S = 3.0
_SILENCE_S = 120.0  # of the cluster, until the client gives up; the job goes on
_END_WITHIN_S = 60.0
_KEPT_LINES = 30
MODEL_SUFFIX = ".distill"


@dataclass(kw_only=True)
class JobStory:
    """What a job's log has said so far (`events/lines.py`), and the last lines of others."""

    report: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    others: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))

    @property
    def is_told(self) -> bool:
        return self.result is not None or self.error is not None

    def tell(self, lines: Iterable[str], listener: Listener) -> None:
        """Take lines in; events go to the listener, of a run of steps only the last."""
        step: Event | None = None
        for event in self._events(lines):
            if step is not None and not isinstance(event, VQStepMetrics | PriorStepMetrics):
                listener(step)
                step = None
            if isinstance(event, VQStepMetrics | PriorStepMetrics):
                step = event
            else:
                listener(event)
        if step is not None:
            listener(step)

    def _events(self, lines: Iterable[str]) -> Iterator[Event]:
        for line in lines:
            said = parse_line(line)
            if said is None:
                if line.strip():
                    self.others.append(line)
            elif said[0] == "event":
                try:
                    yield from_record(said[1])
                except ValueError:
                    continue  # of a newer distill-ray, which has more kinds
            else:
                setattr(self, *said)  # the fields have the names of the kinds


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """A job that is over, and what it said."""

    record: JobRecord
    story: JobStory

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the job's driver."""
        code = self.record.exit_code
        return -code if code is not None and code < 0 else None

    @property
    def exit_code(self) -> int:
        """The job's own, 3 where it was stopped, 1 where a signal ended it."""
        if self.signal is not None:
            return 1
        if self.record.exit_code is not None:
            return self.record.exit_code
        if self.record.status == "stopped":
            return 3
        told = (self.story.error or {}).get("exit_code", 1)
        return told if isinstance(told, int) and told else 1


def follow(client: JobClient, job_id: str, listener: Listener) -> JobEnd:
    """Pass the job's events on, from its first one, until it is over.

    A cluster that does not answer is asked again for two minutes. Raises UsageError where there is no such
    job, ClusterError where the cluster stays silent.
    """
    story = JobStory()
    job = _PolledJob(client, job_id, unknown=f"job {job_id} may well go on there")
    if job.record.is_over():
        story.tell(client.logs(job_id).split("\n"), listener)
        return JobEnd(record=job.record, story=story)
    waiting = _Waiting(listener)
    with JobLog(client, job_id) as log:
        looked = time.monotonic()
        while not job.record.is_over():
            waiting.say(job.record)
            story.tell(log.lines(_LOOK_EVERY_S), listener)
            now = time.monotonic()
            if now - looked < _LOOK_EVERY_S:
                continue
            looked = now
            error = job.ask()
            if error is not None:
                waiting.say_silent(error)
            else:
                waiting.heard_again()
        deadline = time.monotonic() + _LAST_LINES_WITHIN_S
        while not story.is_told and time.monotonic() < deadline:
            story.tell(log.lines(_LOOK_EVERY_S), listener)
    return JobEnd(record=job.record, story=story)


class _PolledJob:
    """What the cluster last said of a job; while it does not answer, it is asked again for two minutes."""

    def __init__(self, client: JobClient, job_id: str, *, unknown: str) -> None:
        self._client, self._job_id, self._unknown = client, job_id, unknown
        self.record = client.job(job_id)
        self._answered = time.monotonic()

    def ask(self) -> ClusterError | None:
        """Ask anew; the error of a cluster that is silent, which in the end is raised with `unknown`."""
        now = time.monotonic()
        try:
            self.record = self._client.job(self._job_id)
        except ClusterError as error:
            if now - self._answered > _SILENCE_S:
                raise ClusterError(f"{error}; {self._unknown}") from None
            return error
        self._answered = now
        return None


class _Waiting:
    """Says once why nothing is to be seen."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._since = time.monotonic()
        self._said = self._silent = False

    def say(self, record: JobRecord) -> None:
        if record.status == "pending" and not self._said and time.monotonic() - self._since > 5.0:
            self._said = True
            self._listener(
                Notice(
                    level="info",
                    message="the job waits: its environment is being made, or what --entrypoint-cpus/-gpus "
                    "ask for is not free",
                )
            )

    def say_silent(self, error: ClusterError) -> None:
        if not self._silent:
            self._silent = True
            self._listener(Notice(level="info", message=f"{error}; the job goes on, trying again"))

    def heard_again(self) -> None:
        self._silent = False


def stop(client: JobClient, job_id: str, *, now: bool, on_wait: Callable[[str], None]) -> JobRecord:
    """End a job: after its step and with a checkpoint, or `now` by killing it. Returns what it ended as.

    A job that has not begun is ended at once, which Ray's own stop only promises to do. `on_wait` hears what
    is waited for. Raises UsageError where there is no such job, ClusterError where it does not end.
    """
    record = client.job(job_id)
    if record.is_over():
        return record
    if now or record.status == "pending":
        on_wait(f"ending {job_id} at once")
        _end_at_once(client, job_id)
        within = _END_WITHIN_S
    else:
        client.stop(job_id)
        on_wait(f"{job_id} ends after its step and keeps what is trained; --now would kill it")
        within = STOP_WITHIN_S + _END_WITHIN_S
    return _until_over(client, job_id, within)


def _end_at_once(client: JobClient, job_id: str) -> None:
    """Ends the job from within the cluster (`remote_end.py`): the Jobs API has nothing that does."""
    helper = client.submit(
        {
            "submission_id": f"end-{secrets.token_hex(4)}",
            "entrypoint": f"exec python -P -m distill_ray.jobs.remote_end {shlex.quote(job_id)}",
            "runtime_env": {"py_modules": [send_package(client)]},
            "metadata": {"distill_ray_ends": job_id},
        }
    )
    ended = _until_over(client, helper, _END_WITHIN_S)
    if ended.status != "succeeded":
        last = client.logs(helper).strip().splitlines()[-1:] or [ended.message]
        raise ClusterError(f"{job_id} could not be ended: {last[0]}")


def _until_over(client: JobClient, job_id: str, within_s: float) -> JobRecord:
    deadline = time.monotonic() + within_s
    job = _PolledJob(client, job_id, unknown=f"whether {job_id} has ended is not known")
    while not job.record.is_over():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"job {job_id} is still {job.record.status} after {within_s:.0f} s; "
                "distill-ray jobs stop --now kills it"
            )
        time.sleep(_LOOK_EVERY_S)
        job.ask()
    return job.record


def fetch(
    client: JobClient,
    job_id: str,
    target: Path,
    *,
    everything: bool,
    on_progress: Callable[[int, int, str], None],
) -> tuple[Path, ...]:
    """Bring a job's model into the folder `target`, or `everything` that it left into `target`/ID.

    Each model is checked (`bundle.verify`) before it gets its name. Raises UsageError where there is nothing
    to fetch, the target exists or a name would lead out of it, BundleError for a damaged model.
    """
    from distill_ray.storage.names import checked_name, path_below

    record = client.job(job_id)
    checked_name(job_id, origin="the cluster", folders=False)
    storage, names = _results(record, everything=everything)
    final = [target / job_id] if everything else [target / name for name in names]
    for path in final:
        if os.path.lexists(path):  # a link to nothing too: it would be replaced
            raise UsageError(f"{path} exists already; choose another --out")
    partial = target / f".{job_id}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir(parents=True)
        for done, name in enumerate(names):
            on_progress(done, len(names), name)
            copy = path_below(partial, name, origin=storage.uri)
            copy.parent.mkdir(parents=True, exist_ok=True)
            storage.download(name, copy)
            if name.endswith(MODEL_SUFFIX):
                _verify(copy, f"{storage.uri}/{name}")
        on_progress(len(names), len(names), "files")
        for source, path in zip(
            [partial] if everything else map(partial.joinpath, names), final, strict=True
        ):
            source.rename(path)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written ({error.strerror}); make room or choose another --out"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return tuple(final)


def _results(record: JobRecord, *, everything: bool) -> tuple[Storage, list[str]]:
    """Where a job puts its results, and which files of them are wanted. Raises UsageError for none."""
    from distill_ray.storage.storage import open_storage

    output, job_id = record.metadata.get("output"), record.job_id
    if not output:
        raise UsageError(f"{job_id} is no job of distill-ray submit, which would know where its results are")
    # A prior is put into the model that the job was given.
    try:
        model = name_of(output) if name_of(output).endswith(MODEL_SUFFIX) else ""
        folder = folder_of(output) if model else output
    except ValueError as error:
        raise UsageError(f"{shown_uri(output)}, where {job_id} puts its results, {error}") from error
    storage = open_storage(folder, holds=f"the results of {job_id}", error=UsageError)
    state = f"has {record.status}" if record.is_over() else f"is {record.status}"
    if storage.local is not None and not storage.local.exists():
        if record.is_over() and storage.local.parent.exists():
            why = record.message or f"distill-ray jobs logs {job_id} says why"
            raise UsageError(f"{job_id} {state} and has left nothing at {storage.local}: {why}")
        raise UsageError(
            f"this machine sees no {storage.local}, where {job_id}, which {state}, puts its results on "
            "the cluster: fetch it where that folder is shared, or submit with --storage s3://… or gs://…"
        )
    names = sorted(storage.files() if everything and not model else storage.names())
    if model or not everything:
        names = [name for name in names if name == model or (not model and name.endswith(MODEL_SUFFIX))]
    if not names:
        raise UsageError(f"there is no model of {job_id} at {storage.uri} yet; the job {state}")
    return storage, names


def _verify(copy: Path, origin: str) -> None:
    from distill_ray.bundle import verify

    try:
        verify(copy)
    except BundleError as error:
        raise BundleError(str(error).replace(str(copy), origin)) from None
