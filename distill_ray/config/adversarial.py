"""Settings of the codec's adversarial stage (`vqvae/discriminator.py`, `training/adversary.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(Section):
    """Discriminators that judge reconstructions in the later part of a codec's training."""

    table: ClassVar[str] = "adversarial"

    enabled: bool = setting(
        False,
        "train against discriminators in the later part of the budget",
        flag="--adversarial/--no-adversarial",
        auto=True,
    )
    start: float = setting(
        0.3,
        "share of the budget after which the discriminators begin",
        flag="--adversarial-start",
        auto=True,
        low=0.0,
        high=0.99,
    )
    loss: str = setting("hinge", "the adversarial loss", choices=("hinge", "lsgan"))
    share: float = setting(
        1.0, "norm of the adversarial gradient over that of the reconstruction loss", above=0.0, high=100.0
    )
    feature_matching: float = setting(
        2.0, "weight of feature matching beside the adversarial loss", low=0.0, high=100.0
    )
    every: int = setting(1, "steps of the codec for each step of the discriminators", low=1, high=100)
    judged_every: int = setting(
        4, "the discriminators judge one of so many windows of a step", auto=True, low=1, high=100
    )
    banded: bool = setting(False, "spectral discriminators have filters of their own for each of five bands")
    periods: int = setting(
        5, "multi-period discriminators: of 2, 3, 5, 7 and 11 samples", auto=True, low=0, high=5
    )
    width: int = setting(16, "channels of the first layer of each discriminator", low=4, high=256)
    lr: float = setting(2e-4, "peak learning rate of the discriminators", above=0.0, high=1.0)
