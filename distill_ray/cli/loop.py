"""`distill-ray loop`: seamless loops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import editing, options, sounds
from distill_ray.cli.device import Device
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.generation import GenerationSettings, SamplingConfig

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.generate.edit import Edit


@takes_settings("loop")
def command(
    *,
    model: sounds.ModelFile,
    audio: Annotated[
        Path | None,
        typer.Argument(help="A recording whose beginning becomes the loop; left out: new sound."),
    ] = None,
    settings: Settings,
    out: sounds.Out = None,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Make loops of exactly -d seconds whose end leads into their beginning."""

    def make(loaded: LoadedVQModel, wanted: GenerationSettings, sampling: SamplingConfig) -> Edit:
        from distill_ray.generate.loop import loop

        return loop(loaded, audio, wanted, sampling)

    editing.run_edit(
        make,
        model=model,
        settings=settings,
        out=out,
        overwrite=overwrite,
        device=device,
        as_json=as_json,
    )
