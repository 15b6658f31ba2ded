"""What `generate` and the edits share on the command line: where their sounds go, and in which format."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from distill_ray.cli.settings import Settings
from distill_ray.config.build import build_sections
from distill_ray.config.generation import AUDIO_FORMATS, GenerationSettings, SamplingConfig
from distill_ray.errors import UsageError

_SEED, _FORMAT = "generate.seed", "generate.audio_format"

ModelFile = Annotated[Path, typer.Argument(help="The .distill file.", metavar="MODEL")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for the files, or the file of one sound (x.wav). [default: generated]",
        show_default=False,
    ),
]


class Asked(NamedTuple):
    """The settings of a command that makes sounds."""

    wanted: GenerationSettings
    sampling: SamplingConfig


def asked_for(settings: Settings, out: Path | None) -> Asked:
    """What settings by dotted key ask for, with a seed of its own where they have none.

    Raises ConfigError, and UsageError where a file is named whose ending is of another format.
    """
    sections = build_sections(
        (GenerationSettings, SamplingConfig), {_SEED: secrets.randbelow(2**31), **settings}
    )
    wanted = sections[GenerationSettings]
    ending = out.suffix.lower().removeprefix(".") if out else ""
    if _FORMAT in settings and ending in AUDIO_FORMATS and ending != wanted.audio_format:
        raise UsageError(
            f"--format asks for {wanted.audio_format} and {out} ends in .{ending}; leave one out"
        )
    return Asked(wanted, sections[SamplingConfig])
