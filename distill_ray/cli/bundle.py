"""`distill-ray bundle`: the codec of one file and the prior of another → one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.output import finish


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file with the codec.", metavar="MODEL")],
    prior: Annotated[Path, typer.Option("--prior", help="A .distill file with a prior for it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; MODEL itself is allowed.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it exists.")] = False,
    as_json: options.Json = False,
) -> None:
    """Join a codec and a prior that learned its codes."""
    from distill_ray.bundle import bundle_models

    manifest = bundle_models(model, prior, out, overwrite=overwrite)
    document = {"model_path": str(out), "prior_path": str(prior), **manifest.to_json()}
    finish(document, result=out, as_json=as_json)
