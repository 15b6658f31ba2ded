"""`distill-ray decode`: codes → an audio file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish
from distill_ray.errors import UsageError

if TYPE_CHECKING:
    from distill_ray.generate import AudioReport, FolderReport


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    codes: Annotated[Path, typer.Argument(help="The codes file, or a folder of them.", metavar="CODES")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write: .wav, .flac, .ogg or .mp3; the folder for those of a folder.",
            metavar="AUDIO",
        ),
    ],
    audio_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of the files of a folder. [default: wav]",
            metavar="wav|flac|ogg|mp3",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Decode codes of another model too, where they fit.")
    ] = False,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Decode codes that `encode` made with this model; of a folder every file that ends in .codes."""
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate import decode_file, decode_folder

    decode: Callable[..., AudioReport | FolderReport] = decode_file
    if codes.is_dir():
        decode = functools.partial(decode_folder, audio_format=audio_format or "wav")
    elif audio_format is not None:
        raise UsageError("--format is of the files of a folder; the ending of --out says that of one file")
    loaded = load_model_v2(model, device=choose_device(device))
    with Display() as display:
        report = decode(loaded, codes, out, force=force, overwrite=overwrite, on_progress=display)
    for warning in report.warnings:
        display.warn(warning)
    finish(report.to_json(), result=report.made, as_json=as_json)
