"""What is odd about recordings that are used: `prepare_report.py` tells of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distill_ray.corpus.decode import CLIPPING_SHARE
from distill_ray.corpus.manifest import CorpusFile

OFFSET = 0.005
"""A mean beyond this share of full scale is one that a model learns: converters leave a tenth of it."""
CANCELLING_DB = -10.0
"""Below this power a mix has lost what its channels had: unlike channels leave −3 dB."""


@dataclass(frozen=True, kw_only=True)
class Oddity:
    """A file that is used and odd, and what is odd about it; figures are in `value`."""

    path: str
    kind: str
    value: float = 0.0
    note: str = ""


def oddities(files: Iterable[CorpusFile]) -> Iterator[Oddity]:
    """What is odd about recordings that are used."""
    for file in sorted(files, key=lambda file: file.path):
        if file.note:
            yield Oddity(path=file.path, kind="repaired", note=file.note)
        if file.mixed_db < CANCELLING_DB:
            yield Oddity(path=file.path, kind="cancelling", value=file.mixed_db)
        if abs(file.offset) >= OFFSET:
            yield Oddity(path=file.path, kind="offset", value=file.offset)
        if file.clipped > CLIPPING_SHARE * file.samples:
            yield Oddity(path=file.path, kind="clipped", value=file.clipped)
