"""`distill-ray vary`: variations of a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import editing, options, sounds
from distill_ray.cli.device import Device
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.generation import GenerationSettings, SamplingConfig, VarySettings

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.generate.edit import Edit


@takes_settings("vary")
def command(
    *,
    model: sounds.ModelFile,
    audio: editing.Recording,
    strength: Annotated[
        float,
        typer.Option(
            "--strength", help="From 0, what the codec makes of it, to 1, a free sound of its length."
        ),
    ] = 0.5,
    settings: Settings,
    out: sounds.Out = None,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Make variations of a recording.

    The strength is the share of its codes that are drawn anew, fine ones first. The same seed on the same
    kind of device gives the same files; without --seed another one is drawn each time.
    """
    asked = VarySettings(strength=strength)

    def make(loaded: LoadedVQModel, wanted: GenerationSettings, sampling: SamplingConfig) -> Edit:
        from distill_ray.generate.vary import vary

        return vary(loaded, audio, asked, sampling, seed=wanted.seed)

    editing.run_edit(
        make,
        model=model,
        settings=settings,
        out=out,
        overwrite=overwrite,
        device=device,
        as_json=as_json,
    )
