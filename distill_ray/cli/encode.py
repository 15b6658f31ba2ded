"""`distill-ray encode`: an audio file → its codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish

if TYPE_CHECKING:
    from distill_ray.generate import CodesReport, FolderReport


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    audio: Annotated[Path, typer.Argument(help="The audio file, or a folder of them.", metavar="AUDIO")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The codes file to write, or the folder for them.", metavar="CODES"),
    ],
    levels: Annotated[
        int | None, typer.Option("--levels", help="RVQ levels to keep. [default: all]", show_default=False)
    ] = None,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Encode audio of any format, rate and length to codes; decode restores its exact length.

    Of a folder every recording is encoded, sub-folders too: in/a/b.wav to OUT/a/b.codes.
    """
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate import encode_file, encode_folder

    loaded = load_model_v2(model, device=choose_device(device))
    with Display() as display:
        encode: Callable[..., CodesReport | FolderReport] = encode_folder if audio.is_dir() else encode_file
        report = encode(loaded, audio, out, levels=levels, overwrite=overwrite, on_progress=display)
    for warning in report.warnings:
        display.warn(warning)
    finish(report.to_json(), result=report.made, as_json=as_json)
