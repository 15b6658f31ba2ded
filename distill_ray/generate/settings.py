"""What `distill-ray generate` can be asked for; standard library only, so that --help stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting

AUDIO_FORMATS = ("wav", "flac", "ogg", "mp3")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Section):
    """How much to generate and in which form; raises ConfigError naming every wrong setting."""

    table: ClassVar[str] = "generate"

    count: int = setting(1, "how many sounds; default 1", flag="-n", low=1, high=100_000)
    seconds: float = setting(
        10.0, "length of each in seconds; default 10", flag="-d", above=0.0, high=360_000.0
    )
    seed: int = setting(
        0, "the same seed gives the same sounds; default 0", flag="--seed", low=0, high=2**31 - 1
    )
    audio_format: str = setting("wav", "file format; default wav", flag="--format", choices=AUDIO_FORMATS)


@dataclass(frozen=True, kw_only=True)
class StreamSettings(GenerationSettings):
    """The same for one sound that is played while it is made; its format and count are not used."""

    block_frames: int = setting(32, "code frames of a block; default 32", low=1, high=100_000)
