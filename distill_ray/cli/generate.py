"""`distill-ray generate`: a model with a prior → new sound, or the continuation of a recording."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_ray.cli import options
from distill_ray.cli.device import Device
from distill_ray.cli.output import bytes_on_stdout, finish, shown_to_a_person
from distill_ray.cli.settings import Settings, takes_settings
from distill_ray.config.build import build_sections
from distill_ray.config.generation import AUDIO_FORMATS, GenerationSettings, SamplingConfig
from distill_ray.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.config.vqvae import VQVAEConfig

SEED, FORMAT = "generate.seed", "generate.audio_format"


@takes_settings("generate")
def command(
    *,
    model: Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")],
    settings: Settings,
    prompt: Annotated[
        Path | None,
        typer.Option(
            "--prompt", help="Audio to continue; the output begins with it and -d counts it.", metavar="AUDIO"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the files, or the file of one sound (x.wav); default: generated.",
            show_default=False,
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Write one sound to stdout while it is made, as wav: … | aplay"),
    ] = False,
    overwrite: options.Overwrite = False,
    device: Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Generate audio; the same seed on the same kind of device gives the same files.

    Without --seed another one is drawn each time; the names of the files and --json have it.

    With --stream, exit code 141 says that whoever read stdout has gone.
    """
    settings = {SEED: secrets.randbelow(2**31), **settings}
    sections = build_sections((GenerationSettings, SamplingConfig), settings)
    wanted, sampling = sections[GenerationSettings], sections[SamplingConfig]
    ending = out.suffix.lower().removeprefix(".") if out else ""
    if FORMAT in settings and ending in AUDIO_FORMATS and ending != wanted.audio_format:
        raise UsageError(
            f"--format asks for {wanted.audio_format} and {out} ends in .{ending}; leave one out"
        )
    if stream:
        _refuse_beside_stream(wanted, out=out, as_json=as_json)
    from distill_ray.bundle import choose_device, load_model_v2
    from distill_ray.display import Display
    from distill_ray.generate import generate_samples, generate_stream

    loaded = load_model_v2(model, device=choose_device(device))
    with Display() as display:
        if stream:
            blocks_CT = generate_stream(
                loaded,
                seconds=wanted.seconds,
                sampling=sampling,
                seed=wanted.seed,
                prompt=prompt,
                on_progress=display,
            )
            _play(blocks_CT, loaded.vqvae_config)
            return
        report = generate_samples(
            loaded,
            count=wanted.count,
            seconds=wanted.seconds,
            sampling=sampling,
            seed=wanted.seed,
            prompt=prompt,
            out_dir=out or Path("generated"),
            audio_format=wanted.audio_format,
            overwrite=overwrite,
            on_progress=display,
        )
    finish(report.to_json(), result=report.files, as_json=as_json)


def _refuse_beside_stream(wanted: GenerationSettings, *, out: Path | None, as_json: bool) -> None:
    if as_json:
        raise UsageError("--stream puts the sound on stdout, where --json puts its document; leave one out")
    if wanted.count != 1:
        raise UsageError(f"--stream makes one sound and -n asks for {wanted.count}; leave one out")
    if out is not None:
        raise UsageError("--stream writes to stdout and -o names a folder; leave one out")
    if wanted.audio_format != "wav":
        raise UsageError(f"--stream writes wav and --format asks for {wanted.audio_format}; leave one out")
    if shown_to_a_person():
        raise UsageError("--stream writes wav to stdout, which is a terminal; add `| aplay` or `> FILE`")


def _play(blocks_CT: Iterator[Tensor], config: VQVAEConfig) -> None:
    from distill_ray.generate.audio import stream_wav

    with bytes_on_stdout() as stdout:
        stream_wav(stdout, blocks_CT, sample_rate=config.sample_rate, channels=config.channels)
