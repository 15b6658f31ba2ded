"""`distill-ray report`: one HTML page on a run, a search or a model, with its sounds; works offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish, tell
from distill_ray.errors import ConfigError, Problem


def command(
    place: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, search or prior, or a .distill file.",
            metavar="RUN|MODEL",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The page. [default: report.html in the folder, MODEL.html beside a model]",
            metavar="FILE.html",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="The recordings: for held-out excerpts where a run has kept none, and for --judge where "
            "they have moved.",
            metavar="DATA",
            show_default=False,
        ),
    ] = None,
    sounds: Annotated[
        int,
        typer.Option(
            "--sounds",
            help="New sounds of a prior of which there are none. [0 to 24; default: 2]",
            metavar="N",
            show_default=False,
        ),
    ] = 2,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            help="Seed of the new sounds. [at least 0; default: 0]",
            metavar="N",
            show_default=False,
        ),
    ] = 0,
    judge: Annotated[
        bool,
        typer.Option(
            "--judge",
            help="Judge generated sound against the recordings, and find its nearest training moments; "
            "takes minutes.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a page that shows what was trained on what, and lets it be heard.

    Curves, spectrograms with players, the search, settings, warnings and provenance in one file that needs no
    network. train, train-prior, tune and run write one by themselves; run's has the judge's figures where
    they do not take long.
    """
    for flag, value, most in (("--sounds", sounds, 24), ("--seed", seed, 2**31 - 1)):
        if not 0 <= value <= most:
            raise ConfigError([Problem(flag[2:], f"{value} is not between 0 and {most}", flag)])
    from distill_ray.display import Display
    from distill_ray.report import write_report
    from distill_ray.report.sounds import Wanted

    with Display() as display:
        wanted = Wanted(sounds=sounds, seed=seed, data=data, judge=judge, on_progress=display)
        written = write_report(place, out, wanted=wanted)
    for note in written.notes:
        tell(note)
    finish(written.to_json(), result=str(written.path), as_json=as_json)
