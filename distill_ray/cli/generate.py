"""`distill-ray generate`: a model with a prior → new sound, or the continuation of a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import finish
from distill_ray.generate.settings import GenerationSettings


def command(
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    count: Annotated[int, options.from_setting(GenerationSettings, "count")] = 1,
    seconds: Annotated[float, options.from_setting(GenerationSettings, "seconds")] = 10.0,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Divides the logits; 0 always takes the likeliest code.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Draw among the K likeliest codes; 0: among all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Draw among the likeliest codes that reach this probability.")
    ] = 1.0,
    seed: Annotated[int, options.from_setting(GenerationSettings, "seed")] = 0,
    prompt: Annotated[
        Path | None,
        typer.Option(
            "--prompt", help="Audio to continue; the output begins with it and -d counts it.", metavar="AUDIO"
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("generated"),
    audio_format: Annotated[str, options.from_setting(GenerationSettings, "audio_format")] = "wav",
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Generate audio; the same seed on the same kind of device gives the same files."""
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate import generate_samples
    from distill_ray.prior import SamplingConfig

    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    loaded = load_model_v2(model, device=choose_device(device))
    with Display() as display:
        report = generate_samples(
            loaded,
            count=count,
            seconds=seconds,
            sampling=sampling,
            seed=seed,
            prompt=prompt,
            out_dir=out,
            audio_format=audio_format,
            on_progress=display,
        )
    finish(report.to_json(), result="\n".join(report.files), as_json=as_json)
