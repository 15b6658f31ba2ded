"""`distill-ray morph`: from one recording to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import editing, options, sounds
from distill_ray.cli.device import Device
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.generation import GenerationSettings, MorphSettings, SamplingConfig

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.generate.edit import Edit


@takes_settings("morph")
def command(
    *,
    model: sounds.ModelFile,
    first: Annotated[Path, typer.Argument(help="The recording to begin with.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="The recording to end with.", metavar="B")],
    at: Annotated[
        float | None,
        typer.Option("--at", help="One mixture throughout instead: 0 is A, 1 is B.", show_default=False),
    ] = None,
    settings: Settings,
    out: sounds.Out = None,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Go from one recording to another through the codec, in the time of the shorter one; no prior needed.

    The seed says when each level of the codec goes over.
    """
    asked = MorphSettings(at=at)

    def make(loaded: LoadedVQModel, wanted: GenerationSettings, sampling: SamplingConfig) -> Edit:
        from distill_ray.generate.morph import morph

        return morph(loaded, first, second, asked, seed=wanted.seed)

    editing.run_edit(
        make,
        model=model,
        settings=settings,
        out=out,
        overwrite=overwrite,
        device=device,
        as_json=as_json,
    )
