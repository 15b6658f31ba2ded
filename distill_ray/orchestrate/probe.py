"""First act of a submitted job: does this machine see the data, and can it write where the results go?

Run as `python -m distill_ray.orchestrate.probe '{"reads": […], "writes": […]}'` before anything heavy is
imported, so that the client hears of a wrong path within seconds. It ends with 2 and an error line
(`job_lines.py`), which the client shows.
"""

from __future__ import annotations

import json
import socket
import sys

from distill_ray.errors import UsageError
from distill_ray.orchestrate import job_lines


def check_reads(place: str) -> None:
    """Raise UsageError where `place`, a path or a URI, is not there."""
    from distill_ray.corpus.storage import open_storage

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
    from distill_ray.corpus.storage import open_storage

    open_storage(place, holds="the results", error=UsageError).check_writable()


def main(argument: str) -> int:
    """Check everything; the exit code."""
    wanted = json.loads(argument)
    try:
        for place in wanted["reads"]:
            check_reads(place)
        for place in wanted["writes"]:
            check_writes(place)
    except UsageError as error:
        facts = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
        job_lines.say("error", facts)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
