"""What `vary`, `fill`, `loop` and `morph` share on the command line: options, and how an edit ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli.output import finish, say
from distill_ray.cli.settings import Settings
from distill_ray.config.build import build_sections
from distill_ray.config.generation import AUDIO_FORMATS, GenerationSettings, SamplingConfig
from distill_ray.errors import UsageError

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.generate.edit import Edit

SEED, FORMAT = "generate.seed", "generate.audio_format"

ModelFile = Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")]
Recording = Annotated[Path, typer.Argument(help="The recording, of any rate and format.", metavar="AUDIO")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for the files, or the file of one sound (x.wav); default: generated.",
        show_default=False,
    ),
]


def run_edit(
    make: Callable[[LoadedVQModel, GenerationSettings, SamplingConfig], Edit],
    *,
    model: Path,
    settings: Settings,
    out: Path | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> None:
    """Make and write what is asked for, settings by dotted key, and say how it is joined."""
    settings = {SEED: secrets.randbelow(2**31), **settings}
    sections = build_sections((GenerationSettings, SamplingConfig), settings)
    wanted, sampling = sections[GenerationSettings], sections[SamplingConfig]
    ending = out.suffix.lower().removeprefix(".") if out else ""
    if FORMAT in settings and ending in AUDIO_FORMATS and ending != wanted.audio_format:
        raise UsageError(
            f"--format asks for {wanted.audio_format} and {out} ends in .{ending}; leave one out"
        )
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate.edit import write_edits

    loaded = load_model_v2(model, device=choose_device(device))
    edit = make(loaded, wanted, sampling)
    with Display() as display:
        report = write_edits(
            loaded, edit, wanted, out or Path("generated"), overwrite=overwrite, on_progress=display
        )
    if report.seam_line:
        say(report.seam_line)
    finish(report.to_json(), result=report.files, as_json=as_json)
