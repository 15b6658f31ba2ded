"""A way to run the real entry point with one made-up command, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Runner = Callable[..., "subprocess.CompletedProcess[str]"]

_COMMAND = """
from typing import Annotated
import typer

def command(
    words: Annotated[list[str] | None, typer.Argument()] = None,
    level: Annotated[int, typer.Option("--level")] = 0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    "A made-up command."
{body}
"""

_ENTRY = """
import sys
import made_up
from distill_ray.cli import main
sys.modules["distill_ray.cli.made_up"] = made_up
main.COMMANDS["made-up"] = ""
main.main()
"""


@pytest.fixture
def made_up(tmp_path: Path) -> Runner:
    """Run `distill-ray made-up ARGUMENTS` whose body is `body` (it sees words, level, as_json)."""

    def run(body: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
        (tmp_path / "made_up.py").write_text(_COMMAND.format(body=indented))
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path), **options.pop("env", {})}
        line = [sys.executable, "-W", "error", "-c", _ENTRY, "made-up", *arguments]
        return subprocess.run(
            line, **{"capture_output": True, "text": True, "timeout": 60, "env": env, **options}
        )

    return run
