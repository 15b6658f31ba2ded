"""Options that several commands share and that are no settings (`cli/settings.py` has those), and what turns
them into a worker plan and a name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.errors import ConfigError, Problem, UsageError
from distill_ray.uri import is_uri, parse_uri

if TYPE_CHECKING:
    from distill_ray.runtime.plan import WorkerPlan

_LONGEST_NAME = 100


Data = Annotated[
    str | None,
    typer.Argument(
        help="Prepared corpus or folder of audio; not needed with --resume.",
        metavar="DATA",
        show_default=False,
    ),
]
New = Annotated[
    bool, typer.Option("--new", help="Begin another run, also where the same one was interrupted.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings; flags win.", metavar="F.toml"),
]
NumWorkers = Annotated[
    str,
    typer.Option(
        "--num-workers",
        metavar="N|MIN-MAX|auto",
        help="Training processes, through Ray Train; 0: in this process, without Ray; auto: every GPU; "
        "MIN-MAX: on a cluster, as many as its nodes allow at the time.",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        help="GPUs of each worker; 0 trains on CPUs. [default: 1 where there are GPUs]",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="A running Ray cluster. [default: that of RAY_ADDRESS, else none]",
        show_default=False,
    ),
]
WithReport = Annotated[
    bool,
    typer.Option("--report/--no-report", help="Write a page with curves and sounds, report.html."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def worker_plan(num_workers: str, gpus_per_worker: float | None, address: str | None) -> WorkerPlan:
    """The plan that the three options describe. Raises ConfigError; its numbers are checked with the plan."""
    least, count = None, None
    between = re.fullmatch(r"(\d+)-(\d+)", num_workers)
    if between:
        least, count = int(between[1]), int(between[2])
    elif num_workers != "auto":
        try:
            count = int(num_workers)
        except ValueError:
            message = f"{num_workers!r} is neither a number of workers, nor a range such as 1-4, nor auto"
            raise ConfigError([Problem("num_workers", message, "--num-workers")]) from None
    from distill_ray.runtime.plan import WorkerPlan

    return WorkerPlan(num_workers=count, min_workers=least, gpus_per_worker=gpus_per_worker, address=address)


def data(given: str | None, resume: str | None) -> str:
    """The recordings that a command names; "" where a resumed run knows its own. Raises UsageError."""
    if given is None and resume is None:
        raise UsageError("missing argument 'DATA': name a prepared corpus or a folder of audio")
    return given or ""


def run_name(name: str | None, data: str) -> str:
    """The user's name for a run, or one made of the data folder's.

    It names a folder and a file, so it must be one harmless path component. Raises ConfigError.
    """
    if name is None:
        return _name_of(data)
    wrong = _name_problem(name)
    if wrong:
        raise ConfigError([Problem("name", f"{name!r} {wrong}", "--name")])
    return name


def _name_of(data: str) -> str:
    if is_uri(data):
        last = parse_uri(data).name
    else:
        path = Path(data).expanduser().resolve()
        last = path.stem if path.is_file() else path.name
    return re.sub(r"[^\w.-]+", "-", last).strip("-.")[:_LONGEST_NAME] or "distill"


def _name_problem(name: str) -> str | None:
    if "/" in name or "\\" in name:
        return "contains a slash; a name is not a path (--out chooses the folder)"
    if not name.isprintable() or not name.strip():
        return "is empty or contains characters that cannot be printed"
    if name.startswith((".", "-")) or name != name.strip():
        return "starts with a dot or a dash, or has spaces at an end"
    if len(name.encode()) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_NAME} bytes"
    return None
