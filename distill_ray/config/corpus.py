"""Settings of a prepared corpus: the format of its PCM, its held-out share, its shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill_ray.config.setting import Section, setting

VAL_FRACTION = "corpus.val_fraction"


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Section):
    """What `prepare` turns recordings into."""

    table: ClassVar[str] = "corpus"

    sample_rate: int = setting(
        44_100, "sample rate of the corpus in Hz", flag="--sample-rate", low=8_000, high=192_000
    )
    channels: int = setting(
        1,
        "audio channels of the corpus; 1: the mean of all that a file has; 2: its first two, or its only one "
        "twice",
        flag="--channels",
        low=1,
        high=2,
    )
    val_fraction: float = setting(
        0.1, "share of the audio held out for validation; 0: none", flag="--val-fraction", low=0.0, high=0.9
    )
    shard_mb: int = setting(64, "size of a shard that files share, in MB", low=1, high=4096)
