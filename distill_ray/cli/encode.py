"""`distill-ray encode`: an audio file → its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    audio: Annotated[Path, typer.Argument(help="The audio file.", metavar="AUDIO")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The codes file to write.", metavar="CODES")],
    levels: Annotated[
        int | None, typer.Option("--levels", help="RVQ levels to keep; default: all.", show_default=False)
    ] = None,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Encode audio of any format, rate and length to codes; decode restores its exact length."""
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate import encode_file

    loaded = load_model_v2(model, device=choose_device(device))
    with Display() as display:
        report = encode_file(loaded, audio, out, levels=levels, overwrite=overwrite, on_progress=display)
    for warning in report.warnings:
        display.warn(warning)
    finish(report.to_json(), result=out, as_json=as_json)
