"""`distill-ray submit`: one of the long commands as a job of a Ray cluster, watched like a local run."""

from __future__ import annotations

from typing import Annotated

import typer

from distill_ray.cli import jobs, options
from distill_ray.cli.output import finish, say, tell
from distill_ray.errors import UsageError

PARSING = {"allow_interspersed_args": False}  # what follows the other command's name is that one's


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            help="train, train-prior, tune or run with their arguments.", metavar="-- COMMAND ARGS..."
        ),
    ],
    address: jobs.DashboardUrl = None,
    token_file: jobs.TokenFile = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Name of the job, its folder and its model. [default: one is made up]",
            show_default=False,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URI",
            help="Where results go, as URI/NAME: s3://, gs:// or a folder that the nodes share.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Watch the job until it ends.")] = True,
    pip: Annotated[
        list[str] | None,
        typer.Option("--pip", metavar="REQ", help="Package to install for the job; may be repeated."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="K=V", help="Variable of the job's environment; may be repeated."),
    ] = None,
    entrypoint_cpus: Annotated[
        float | None,
        typer.Option("--entrypoint-cpus", help="CPUs kept for the job's driver.", show_default=False),
    ] = None,
    entrypoint_gpus: Annotated[
        float | None,
        typer.Option("--entrypoint-gpus", help="GPUs kept for the job's driver.", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run a command on a Ray cluster: this program is sent there, your audio is not.

    DATA and MODEL are paths or URIs that the cluster sees. Ctrl-C here leaves the job running (exit code 3)
    and says how to watch or stop it; otherwise the exit code is the job's.

    Whoever reaches the cluster's Jobs API can run any code on it; keep it behind a token and a tunnel.
    """
    from distill_ray.cli.job_arguments import read_command, spoken, write_command
    from distill_ray.cli.job_settings import check_settings
    from distill_ray.jobs.client import python_notice
    from distill_ray.jobs.submit import JobRequest, check_name, new_name, submit_job

    asked = read_command(words)
    environment = _variables(env or [])
    job_name = name or new_name(asked.name)
    check_name(job_name)
    line = write_command(asked, name=job_name, storage=storage)
    client = jobs.connect(address, token_file)
    facts = client.check(on_wait=tell)
    notice = python_notice(facts)
    if notice:
        tell(f"warning: {notice}")
    check_settings(asked, facts.resources, f"{client.address.host}:{client.address.port}")
    request = JobRequest(
        name=job_name,
        arguments=line.arguments,
        files=line.files,
        reads=line.reads,
        writes=line.writes,
        output=line.output,
        pip=tuple(pip or ()),
        environment=environment,
        cpus=entrypoint_cpus,
        gpus=entrypoint_gpus,
    )
    job_id = submit_job(client, request, facts, on_wait=tell)
    say(f"job {job_id} at {client.address}: {spoken(line.arguments)}")
    if wait:
        jobs.watch(client, job_id, as_json=as_json, hint=jobs.cluster_options(address, token_file))
    else:
        finish({"job_id": job_id, "output": line.output}, result=job_id, as_json=as_json)


def _variables(pairs: list[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.isidentifier():
            raise UsageError(f"--env {key!r} is no variable; write --env NAME=VALUE")
        variables[key] = value
    return variables
