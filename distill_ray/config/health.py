"""Settings of the codebook-health stopping rule (`vqvae/health.py` holds the rule itself)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting


@dataclass(frozen=True, kw_only=True)
class HealthConfig(Section):
    """When a codebook counts as collapsed. A report is one epoch."""

    table: ClassVar[str] = "health"

    stop: bool = setting(
        False,
        "end training when a codebook has collapsed (exit code 4); on in a search, off in a single training",
        flag="--health-stop/--no-health-stop",
        auto=True,
    )
    measure: str = setting(
        "utilization", "measure that is compared with the floor", choices=("utilization", "entropy")
    )
    floor: float = setting(
        0.3, "a level below this value has collapsed", flag="--health-floor", low=0.0, high=1.0
    )
    kept_floor: float = setting(
        0.0,
        "a level has collapsed that keeps a smaller share of its codes when audio is shifted by a quarter of "
        "a code frame; 0: not judged, as for purpose compression",
        flag="--kept-floor",
        auto=True,
        low=0.0,
        high=1.0,
    )
    gain_floor: float = setting(
        0.0,
        "a level has collapsed of which a search's short prior saves a smaller share of the histogram's "
        "cost; 0: not judged",
        flag="--gain-floor",
        low=0.0,
        high=1.0,
    )
    patience: int = setting(3, "reports in a row below the floor", flag="--health-patience", low=1)
    warmup: int = setting(2, "first reports that are not counted", flag="--health-warmup", low=0)
