"""First act of a submitted job: are the packages here, and the data, and can the results be written?

Run as `python -m distill_ray.jobs.remote_probe '{"reads": […], "writes": […]}'` before anything heavy is
imported, so that the client hears of a wrong path within seconds. It ends with 2 and an error line
(`events/lines.py`), which the client shows.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import sys

from distill_ray.errors import DistillError, InstallationError, UsageError
from distill_ray.events import lines as job_lines

_PACKAGES = (
    "ray",
    "torch",
    "torchaudio",
    "pyarrow",
    "safetensors",
    "soundfile",
    "av",
    "numpy",
    "rich",
    "typer",
)


def check_installed(packages: tuple[str, ...] = _PACKAGES) -> None:
    """Raise InstallationError where this Python, the first `python` that the job found, lacks a package."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InstallationError(
            f"{sys.executable} of the cluster's node {socket.gethostname()} has no {', '.join(missing)}: "
            "start Ray there with the environment that has them first on the PATH, or submit with "
            f"--pip {missing[0]}" + (" and so on" if missing[1:] else "")
        )


def check_reads(place: str) -> None:
    """Raise UsageError where `place`, a path or a URI, is not there."""
    from distill_ray.storage.storage import open_storage

    storage = open_storage(place, holds="the data", error=UsageError)
    if storage.local is not None:
        if not storage.local.exists():
            raise UsageError(
                f"the cluster's node {socket.gethostname()} sees no {storage.local}: give a folder that its "
                "nodes share, or a URI such as s3://BUCKET/CORPUS"
            )
    # A folder of an object store exists by what is in it.
    elif storage.entry("") is None and not storage.names():
        raise UsageError(f"the cluster finds nothing at {storage.uri}: check the URI")


def check_writes(place: str) -> None:
    """Raise UsageError where no file can be written in `place`, a path or a URI."""
    from distill_ray.storage.storage import open_storage

    open_storage(place, holds="the results", error=UsageError).check_writable()


def main(argument: str) -> int:
    """Check everything; the exit code."""
    wanted = json.loads(argument)
    try:
        check_installed()
        for place in wanted["reads"]:
            check_reads(place)
        for place in wanted["writes"]:
            check_writes(place)
    except DistillError as error:
        facts = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
        job_lines.say("error", facts)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
