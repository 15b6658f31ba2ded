"""The app `distill-ray`: which commands there are, and the entry point.

A command is a module of this package with one function named `command`, or with several in its `COMMANDS`
(`distill-ray jobs list`). It is imported when it is asked
for, and what it needs beyond the standard library is imported inside it: `distill-ray --help` loads neither
torch, Ray, Rich nor any command (building all of them for their help lines would double its time).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from distill_ray.cli.output import only_results_on_stdout, run
from distill_ray.cli.places import check_places, expanded
from distill_ray.cli.signals import ignore_at_the_very_end, leave
from distill_ray.version import __version__

# In the order of the work; `train-prior` is the module `train_prior`.
COMMANDS = {
    "prepare": "Turn recordings into a corpus (train does it by itself).",
    "train": "Train the codec on recordings: NAME.distill.",
    "train-prior": "Train the prior over the codec's codes, into the same file.",
    "tune": "Search codebook size × RVQ depth for the best codec.",
    "run": "All of it: recordings → best codec → prior → NAME.distill and samples.",
    "generate": "Generate sound, or go on from a recording.",
    "vary": "Make variations of a recording.",
    "fill": "Fill a gap in a recording.",
    "loop": "Make seamless loops.",
    "morph": "Go from one recording to another.",
    "encode": "Audio to codes.",
    "decode": "Codes to audio.",
    "evaluate": "Score the codec on held-out audio, and generated sound against the corpus.",
    "report": "One HTML page on a run, a search or a model, with its sounds.",
    "submit": "Run train, train-prior, tune or run as a job of a Ray cluster.",
    "jobs": "List, watch, stop and fetch submitted jobs.",
    "bundle": "Join the codec of one file and the prior of another.",
    "info": "Show what a .distill file holds.",
    "doctor": "Check the installation and say what to do.",
}
_HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def parser_of(name: str) -> Any:
    """The Click command that parses and runs the command `name`."""
    module = importlib.import_module(f"distill_ray.cli.{name.replace('-', '_')}")
    typed = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings=_HELP_NAMES,
    )
    several: Mapping[str, Callable[..., None]] | None = getattr(module, "COMMANDS", None)
    if several is None:
        settings = {**_HELP_NAMES, **getattr(module, "PARSING", {})}
        typed.command(name=name, context_settings=settings)(_isolated(module.command))
        return typer.main.get_command(typed)
    for part, function in several.items():
        typed.command(name=part, context_settings=_HELP_NAMES)(_isolated(function))
    typed.callback(help=module.HELP)(_nothing)
    return typer.main.get_command(typed)


def _nothing() -> None:
    pass


class LazyCommands(TyperGroup):
    """The commands of `COMMANDS`, each imported when it is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return parser_of(cmd_name)

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False  # without one Typer loads Pydantic, for longer than all the rest takes
        return option

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name == "help" and len(args) == 1:
            typer.echo(ctx.get_help())
            ctx.exit()
        if name == "help":  # `help train` is `train --help`
            name, args = args[1], [args[1], "--help"]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        return ctx.fail(f"no such command {name!r}; {hint}")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _isolated(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        with only_results_on_stdout():
            values = expanded(kwargs)
            check_places(values)
            function(*args, **values)

    return wrapper


# Plain help: Typer's Rich help would double the time that --help takes.
app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
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
        typer.Option("--version", "-V", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Distil a folder of recordings into one file that generates, encodes and continues audio.

    prepare (optional) → train → train-prior → generate. Progress goes to stderr; stdout carries the
    resulting path, or one JSON document with --json.

    `distill-ray help COMMAND` shows a command's options, --install-completion makes the shell complete them.

    Exit codes: 0 done, 1 failed, 2 usage or input, 3 cancelled by Ctrl-C, 4 stopped by the health rule.
    """


def main() -> None:
    """The console script."""
    ignore_at_the_very_end()
    leave(run(app, sys.argv[1:]))
