"""`distill-ray jobs`: list, status, logs, stop and fetch, for jobs that `distill-ray submit` sent.

Also `watch`, the live view of a running job, which submit and `logs --follow` share.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill_ray.cli import options
from distill_ray.cli.output import bytes_on_stdout, finish, labelled, say, shown_to_a_person, tell
from distill_ray.cli.recordings import showing_findings
from distill_ray.errors import CancelledError, JobError, UsageError
from distill_ray.uri import is_uri

if TYPE_CHECKING:
    from distill_ray.jobs.client import JobClient, JobRecord
    from distill_ray.jobs.follow import JobEnd

HELP = """List, watch, stop and fetch jobs.

    Each takes --address, --token-file and --json.
    """

JobId = Annotated[str, typer.Argument(help="The job's id, which is its name.", metavar="ID")]
DashboardUrl = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="http://HOST:8265",
        help="The cluster's dashboard; RAY_API_SERVER_ADDRESS says the same.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="F",
        help="File with the cluster's token, of mode 600; else RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
        "~/.ray/auth_token.",
        show_default=False,
    ),
]


def connect(address: str | None, token_file: Path | None) -> JobClient:
    """The client for the cluster that the user means; nothing is asked of it yet."""
    from distill_ray.jobs.address import dashboard_address, find_token
    from distill_ray.jobs.client import JobClient

    where = dashboard_address(address)
    token = find_token(token_file)
    if token is not None and where.scheme == "http" and not where.is_local:
        tell(
            f"warning: the token travels unencrypted to {where.host}; a tunnel hides it: "
            f"ssh -L {where.port}:localhost:{where.port} {where.host}, then --address http://localhost:{where.port}"
        )
    return JobClient(where, token)


def jobs_list(
    everyone: Annotated[bool, typer.Option("--all", help="Also jobs of other programs.")] = False,
    address: DashboardUrl = None,
    token_file: TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """List the cluster's jobs, the oldest first."""
    found = connect(address, token_file).jobs()
    jobs = [job for job in found if everyone or "distill_ray" in job.metadata]
    from distill_ray.display.tables import as_lines, table

    rows = [
        (job.job_id, job.status, job.metadata.get("command", ""), _when(job), _output(job)) for job in jobs
    ]
    columns = ("job", "state", "command", "begun", "results")
    lines = as_lines([table("", columns, rows)]) if rows else "no jobs"
    finish({"jobs": [_document(job) for job in jobs]}, result=lines, as_json=as_json)


def jobs_status(
    job_id: JobId,
    address: DashboardUrl = None,
    token_file: TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Say what state a job is in; the exit code is 0 whatever it is."""
    from distill_ray.jobs.submit import asked_command

    job = connect(address, token_file).job(job_id)
    asked = asked_command(job.entrypoint)
    lines = [("job", job.job_id), ("state", job.status), ("begun", _when(job)), ("command", asked)]
    lines += [("exit code", str(job.exit_code))] if job.exit_code is not None else []
    lines += [("results", _output(job))] if _output(job) else []
    lines += [("message", job.message)] if job.message else []
    finish(_document(job), result=labelled(lines), as_json=as_json)


def jobs_logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch until the job ends.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the log as the cluster has it, on stdout.")
    ] = False,
    address: DashboardUrl = None,
    token_file: TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Show a job as a local run is shown, from its beginning.

    With --follow (or if it is over), this ends as the job does, with its exit code and result; Ctrl-C leaves
    it running (exit code 3).
    """
    client = connect(address, token_file)
    if raw:
        _raw_log(job_id, client.logs(job_id), as_json=as_json)
    elif follow or client.job(job_id).is_over():
        watch(client, job_id, as_json=as_json, hint=cluster_options(address, token_file))
    else:
        from distill_ray.display import Display
        from distill_ray.jobs.follow import JobStory

        with Display() as display:
            JobStory().tell(client.logs(job_id).split("\n"), showing_findings(display))
        finish({**_document(client.job(job_id))}, as_json=as_json)


def _raw_log(job_id: str, log: str, *, as_json: bool) -> None:
    """The log as it is for a program or a file; a terminal would obey what somebody else has written."""
    if as_json or shown_to_a_person():
        finish({"job_id": job_id, "log": log}, result=log.rstrip("\n").split("\n"), as_json=as_json)
        return
    with bytes_on_stdout() as stdout:
        stdout.write(log.encode("utf-8", "replace"))


def jobs_stop(
    job_id: JobId,
    now: Annotated[
        bool, typer.Option("--now", help="Kill it: the steps since its last checkpoint are lost.")
    ] = False,
    address: DashboardUrl = None,
    token_file: TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Stop a job after its current step; its model can be used.

    A job that waits to begin is ended at once. Waits until the job is over.
    """
    from distill_ray.display import Display
    from distill_ray.events.records import Notice
    from distill_ray.jobs.follow import stop

    client = connect(address, token_file)
    with Display() as display:
        try:
            job = stop(
                client,
                job_id,
                now=now,
                on_wait=lambda message: display(Notice(level="info", message=message)),
            )
        except KeyboardInterrupt:
            raise CancelledError(
                f"{job_id} was asked to stop and goes on doing so; nobody waits for it"
            ) from None
    finish(_document(job), result=f"{job_id} {job.status}", as_json=as_json)


def jobs_fetch(
    job_id: JobId,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of this machine to put it into.")] = ".",
    everything: Annotated[
        bool, typer.Option("--all", help="Fetch the whole run (checkpoints, logs) into OUT/ID.")
    ] = False,
    address: DashboardUrl = None,
    token_file: TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Bring a job's model here, undamaged or not at all."""
    from distill_ray.display import Display
    from distill_ray.events.records import StageProgress
    from distill_ray.jobs.follow import fetch

    if is_uri(out):
        raise UsageError(f"{out} is no folder of this machine: give --out one")
    client = connect(address, token_file)
    with Display() as display:
        paths = fetch(
            client,
            job_id,
            Path(out),
            everything=everything,
            on_progress=lambda done, total, note: display(
                StageProgress(stage="fetch", done=done, total=total, note=note)
            ),
        )
    shown = [str(path) for path in paths]
    finish({"job_id": job_id, "paths": shown}, result=shown, as_json=as_json)


COMMANDS: dict[str, Callable[..., None]] = {
    "list": jobs_list,
    "status": jobs_status,
    "logs": jobs_logs,
    "stop": jobs_stop,
    "fetch": jobs_fetch,
}


def watch(client: JobClient, job_id: str, *, as_json: bool, hint: str) -> None:
    """Draw a job as a local run is drawn and end as it does; Ctrl-C leaves it running and says how to return.

    hint: the options that name this cluster in the commands that are shown.
    """
    try:
        from distill_ray.display import Display
        from distill_ray.jobs.follow import follow

        with Display() as display:
            end = follow(client, job_id, showing_findings(display))
    except KeyboardInterrupt:
        say(f"detached: job {job_id} goes on")
        say(f"  watch it again:  distill-ray jobs logs {job_id} --follow{hint}")
        say(f"  stop it:         distill-ray jobs stop {job_id}{hint}")
        finish({"job_id": job_id, "detached": True}, as_json=as_json, exit_code=3)
        return
    result = end.story.result
    if result is None:
        raise _failure(end, hint)
    display.final_report(end.story.report)
    if "model" in end.story.report:
        say(f"bring the model here: distill-ray jobs fetch {job_id}{hint}")
    if end.exit_code == 3:
        say(f"go on with it: the same submit {_resuming(end.record)}")
    document = {"job_id": job_id, **result["document"]}
    finish(document, result=result["result"], as_json=as_json, exit_code=end.exit_code)


def cluster_options(address: str | None, token_file: Path | None) -> str:
    """The options by which another command reaches the same cluster, as far as they were given."""
    given = {"--address": address, "--token-file": token_file}
    return "".join(f" {flag} {value}" for flag, value in given.items() if value is not None)


def _resuming(job: JobRecord) -> str:
    """How another submit goes on with what the job has begun."""
    if job.metadata.get("command") == "train-prior":
        return "with --resume and another --name"
    return f"with --resume {_output(job)} and another --name, without --storage"


def _failure(end: JobEnd, hint: str) -> JobError:
    """What the job said of its failure, or else the last lines of its log."""
    job, error = end.record, end.story.error
    if error is not None:
        return JobError(str(error.get("message", "the job failed")), end.exit_code)
    if job.status == "stopped":
        return JobError(f"job {job.job_id} was stopped before it had a result", end.exit_code)
    for line in end.story.others:
        say(f"  | {line}")
    reason = job.message.rstrip(".") or "no reason is given"
    if end.signal is not None:
        reason = f"signal {end.signal} ended its driver" + (
            " (a node short of memory does that)" if end.signal == signal.SIGKILL else ""
        )
        say(f"go on with it: the same submit {_resuming(job)}")
    return JobError(
        f"job {job.job_id} {job.status}: {reason}; its whole log: "
        f"distill-ray jobs logs {job.job_id} --raw{hint}",
        end.exit_code,
    )


def _document(job: JobRecord) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "exit_code": job.exit_code,
        "command": job.metadata.get("command"),
        "output": _output(job) or None,
        "started": job.started,
        "ended": job.ended,
        "message": job.message or None,
    }


def _output(job: JobRecord) -> str:
    return job.metadata.get("output", "")


def _when(job: JobRecord) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started)) if job.started else ""
    except (OverflowError, ValueError, OSError):  # no time of this planet
        return ""
