"""`distill-ray decode`: codes → an audio file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    codes: Annotated[Path, typer.Argument(help="The codes file.", metavar="CODES")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The file to write: .wav, .flac, .ogg or .mp3.", metavar="AUDIO"),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Decode codes of another model too, where they fit.")
    ] = False,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Decode codes that `encode` made with this model."""
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate import decode_file

    loaded = load_model_v2(model, device=choose_device(device))
    with Display() as display:
        report = decode_file(loaded, codes, out, force=force, overwrite=overwrite, on_progress=display)
    finish(report.to_json(), result=out, as_json=as_json)
