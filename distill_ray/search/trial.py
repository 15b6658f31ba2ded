"""One trial of a search: what it is (`TrialSpec`) and what became of it (`TrialRecord`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from distill_ray.training.events import DepthScore
from distill_ray.vqvae.health import LevelHealth

ROUNDS = ("search", "shallower", "final")
FINISHED = ("completed", "collapsed", "pruned", "failed")


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """A trial before it runs.

    `id` names its folder and is unique in the search ("k256-q8", "k256-q8-lr0.001", "final-k256-q4").
    `overrides` are dotted settings beyond the two searched always ("training.lr", "model.commitment_weight",
    "model.size"). `depths` are the depths that it is scored at, ascending; the last one is `rvq_levels`.
    """

    id: str
    round: str
    codebook_size: int
    rvq_levels: int
    depths: tuple[int, ...]
    overrides: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.round in ROUNDS, self.round
        assert self.depths and self.depths[-1] == self.rvq_levels, self.depths


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial after (or while) it ran. `state` as in `TrialUpdate`; `frame_rate` in code frames a second.

    `depth_scores` and `codebook_health` are those of the best epoch, whose weights are kept. `collapsed_level`
    is the one that the health rule ended the trial for. `gpu_seconds`: wall seconds × GPUs, over all attempts.
    """

    spec: TrialSpec
    state: str
    reason: str = ""
    epochs: int = 0
    steps: int = 0
    frame_rate: float = 0.0
    val_loss: float | None = None
    depth_scores: tuple[DepthScore, ...] = ()
    codebook_health: tuple[LevelHealth, ...] = ()
    collapsed_level: int | None = None
    prior_bits_per_second: float | None = None
    gpu_seconds: float = 0.0
    elapsed_s: float = 0.0
    attempts: int = 1
    checkpoint: str = ""
