"""How a submitted job speaks to the client that watches it: lines of its log.

    distill-ray-event {…}    an event record (`events/records.py`)
    distill-ray-report {…}   what the final report calls the results: label → path
    distill-ray-result {…}   what the command ends with: "document" and "result" (its line on stdout)
    distill-ray-error {…}    why it failed: type, message, exit_code

The job's side is `cli/attended.py` and `cli/output.py`, the client's `jobs/follow.py`. All other lines
of the log are somebody else's.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from distill_ray.jsonable import jsonable, parse_json

Kind = Literal["event", "report", "result", "error"]

EVENTS_VARIABLE = "DISTILL_RAY_EVENTS"
_PREFIXES: dict[Kind, str] = {
    "event": "distill-ray-event ",
    "report": "distill-ray-report ",
    "result": "distill-ray-result ",
    "error": "distill-ray-error ",
}


def wanted() -> bool:
    """Whether this process is a job whose client draws: then it prints lines instead of drawing."""
    return os.environ.get(EVENTS_VARIABLE) == "1"


def say(kind: Kind, document: Mapping[str, Any]) -> None:
    """Print one line on stderr; a closed stderr is nobody listening, and no reason to fail."""
    line = f"{_PREFIXES[kind]}{_one_line(document)}\n"
    with suppress(OSError, ValueError):
        sys.stderr.write(line)
        sys.stderr.flush()


def parse_line(line: str) -> tuple[Kind, dict[str, Any]] | None:
    """What a line of a job's log says; None for a line of somebody else or one that was cut."""
    for kind, prefix in _PREFIXES.items():
        if line.startswith(prefix):
            try:
                document = parse_json(line[len(prefix) :])
            except ValueError:
                return None
            return (kind, document) if _is_ours(kind, document) else None
    return None


def _is_ours(kind: Kind, document: Any) -> bool:
    """Whether a command of ours may have said it; other programs of the job may begin a line as we do."""
    if not isinstance(document, dict):
        return False
    if kind == "result":
        return isinstance(document.get("document"), dict) and isinstance(
            document.get("result", 0), str | None
        )
    return kind != "error" or isinstance(document.get("message"), str)


def _one_line(document: Mapping[str, Any]) -> str:
    return json.dumps(jsonable(document, as_text=True), allow_nan=False)
