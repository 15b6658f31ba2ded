"""The app `distill-ray`: which commands there are, and the entry point.

A command is a module of this package with one function named `command`. It is imported when it is asked
for (or when its help line is), and what it needs beyond the standard library is imported inside it, so
that `distill-ray --help` loads neither torch, Ray nor Rich (measured: 0.2 s, most of it Typer itself).
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from distill_ray import __version__
from distill_ray.cli.output import only_results_on_stdout, run

# In the order of the work.
COMMANDS = {
    "prepare": "distill_ray.cli.prepare",
    "train": "distill_ray.cli.train",
    "train-prior": "distill_ray.cli.train_prior",
    "generate": "distill_ray.cli.generate",
    "encode": "distill_ray.cli.encode",
    "decode": "distill_ray.cli.decode",
    "evaluate": "distill_ray.cli.evaluate",
    "bundle": "distill_ray.cli.bundle",
    "info": "distill_ray.cli.info",
    "doctor": "distill_ray.cli.doctor",
}
_HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class LazyCommands(TyperGroup):
    """The commands of `COMMANDS`, each imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        function = importlib.import_module(COMMANDS[cmd_name]).command
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name=cmd_name, context_settings=_HELP_NAMES)(_isolated(function))
        return typer.main.get_command(single)


def _isolated(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        with only_results_on_stdout():
            function(*args, **kwargs)

    return wrapper


# Plain help: Typer's Rich help would double the time that --help takes.
app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_HELP_NAMES,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"distill-ray {__version__}")
        raise typer.Exit


@app.callback()
def distill_ray(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Distil a folder of recordings into one file that generates, encodes and continues audio.

    prepare (optional) → train → train-prior → generate. Progress goes to stderr; stdout carries the
    resulting path, or one JSON document with --json.

    Exit codes: 0 done, 1 failed, 2 usage or input, 3 cancelled by Ctrl-C, 4 stopped by the health rule.
    """


def main() -> None:
    """The console script."""
    sys.exit(run(app, sys.argv[1:]))
