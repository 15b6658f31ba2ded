"""`distill-ray fill`: a gap in a recording, filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import editing, options, sounds
from distill_ray.cli.device import Device
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.generation import FillSettings, GenerationSettings, SamplingConfig

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.generate.edit import Edit


@takes_settings("fill")
def command(
    *,
    model: sounds.ModelFile,
    audio: editing.Recording,
    start: Annotated[
        float, typer.Option("--from", help="Second at which the gap begins.", show_default=False)
    ],
    stop: Annotated[float, typer.Option("--to", help="Second at which it ends.", show_default=False)],
    decoded: Annotated[
        bool,
        typer.Option(
            "--decoded", help="Give the rest as the codec decodes it, too, so that all sounds alike."
        ),
    ] = False,
    settings: Settings,
    out: sounds.Out = None,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Fill a gap in a recording with sound that leads from what comes before to what comes after.

    The rest of the recording stays as it is. The prior must have learnt to fill gaps (train-prior
    --masked-share).
    """
    asked = FillSettings(start=start, stop=stop, decoded=decoded)

    def make(loaded: LoadedVQModel, wanted: GenerationSettings, sampling: SamplingConfig) -> Edit:
        from distill_ray.generate.fill import fill

        return fill(loaded, audio, asked, sampling, seed=wanted.seed)

    editing.run_edit(
        make,
        model=model,
        settings=settings,
        out=out,
        overwrite=overwrite,
        device=device,
        as_json=as_json,
    )
