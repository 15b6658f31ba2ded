"""Settings of the whole of `distill-ray run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Section):
    """What holds for all stages together."""

    table: ClassVar[str] = "pipeline"

    max_minutes: float | None = setting(
        None,
        "time budget of the whole command in minutes, from the recordings to the report",
        flag="--max-minutes",
        replaces="sweep.max_minutes",
        above=0.0,
    )
