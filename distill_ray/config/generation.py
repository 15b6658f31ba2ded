"""Settings of generation (`generate/`): how much sound in which form, and how its codes are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting
from distill_ray.errors import Problem

AUDIO_FORMATS = ("wav", "flac", "ogg", "mp3")
GUIDANCE = 3.0
"""How firmly what is asked for is followed (`generate/wish.py`); MusicGen's (Copet et al. 2023)."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Section):
    """How much to generate and in which form."""

    table: ClassVar[str] = "generate"

    count: int = setting(
        1, "how many sounds", flag="-n", low=1, high=100_000, run_flag="--samples", run_default=8
    )
    seconds: float = setting(
        10.0, "length of each sound in seconds", flag="-d", above=0.0, high=360_000.0, run_flag="--seconds"
    )
    seed: int = setting(
        0,
        "the same seed gives the same sounds; without one another is drawn each time",
        flag="--seed",
        low=0,
        high=2**31 - 1,
        auto=True,
        run_flag="--seed",
    )
    audio_format: str = setting("wav", "file format", flag="--format", choices=AUDIO_FORMATS)


@dataclass(frozen=True, kw_only=True)
class StreamSettings(GenerationSettings):
    """The same for one sound that is played while it is made; its format and count are not used."""

    block_frames: int = setting(32, "code frames of a block", low=1, high=100_000)


@dataclass(frozen=True, kw_only=True)
class VarySettings(Section):
    """How far a variation goes (`generate/vary.py`)."""

    table: ClassVar[str] = "vary"

    strength: float = setting(
        0.5, "share of the codes that are drawn anew", flag="--strength", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class FillSettings(Section):
    """The gap that is filled, in seconds (`generate/fill.py`)."""

    table: ClassVar[str] = "fill"

    start: float = setting(0.0, "where the gap begins", flag="--from", low=0.0)
    stop: float = setting(0.0, "where the gap ends", flag="--to", low=0.0)
    decoded: bool = setting(False, "the rest as the codec decodes it, too", flag="--decoded")

    def cross_checks(self) -> Iterator[Problem]:
        if self.start >= self.stop:
            yield self.problem("start", f"{self.start:g} s is not before the end, {self.stop:g} s")


@dataclass(frozen=True, kw_only=True)
class MorphSettings(Section):
    """How two recordings are mixed (`generate/morph.py`)."""

    table: ClassVar[str] = "morph"

    at: float | None = setting(None, "one mixture throughout", flag="--at", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(Section):
    """What is generated for `evaluate --generated` (`evaluate/generated.py`)."""

    table: ClassVar[str] = "judge"

    count: int | None = setting(
        None, "how many sounds to generate; default: enough for 240 windows", flag="-n", low=1, high=100_000
    )
    seconds: float = setting(10.0, "length of each sound in seconds", flag="-d", above=0.0, high=360_000.0)
    seed: int = setting(
        0, "the same seed gives the same sounds and figures", flag="--seed", low=0, high=2**31 - 1
    )


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """How codes are drawn from the prior's distributions (`prior/sampling.py`)."""

    table: ClassVar[str] = "sampling"

    temperature: float = setting(
        1.0, "divides the logits; 0 always takes the likeliest code", flag="--temperature", low=0.0
    )
    top_k: int = setting(0, "draw among the k likeliest codes; 0: among all", flag="--top-k", low=0)
    top_p: float = setting(
        1.0, "draw among the likeliest codes that reach this probability", flag="--top-p", above=0.0, high=1.0
    )
    start: str = setting(
        "middle",
        "where sounds without a prompt begin: in the middle of things, or at the beginning of a recording",
        flag="--start",
        choices=("middle", "beginning"),
    )
