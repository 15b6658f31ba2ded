"""The judge's part of a report: generated sound against the recordings, and the nearest training moments.

`evaluate/generated.py` measures; here its nearest moments become sounds side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from distill_ray.evaluate.judgement import NearestMoment
from distill_ray.report.facts import Judged, NearestPair, Sound
from distill_ray.report.sound import read_sound

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.corpus import Corpus
    from distill_ray.evaluate.generated import OnProgress

PAIRS = 5
_SECONDS = 2.0
COST = 0.05
"""Seconds that measuring a second of recordings takes on a CPU core at most (2026-11-30: 0.035 of speech); a
GPU is quicker."""


def judge(
    loaded: LoadedVQModel, corpus: Corpus, folder: Path, *, seed: int, on_progress: OnProgress | None = None
) -> Judged:
    """The sounds in `folder` and decoded held-out recordings, each against the training files of `corpus`.

    Raises AudioError where there is too little to judge or to judge by.
    """
    from distill_ray.config.generation import JudgeSettings
    from distill_ray.evaluate.generated import judge_generated

    found = judge_generated(
        loaded, corpus, folder=folder, settings=JudgeSettings(seed=seed), on_progress=on_progress
    )
    copies = found.generated.copies
    moments = spread(copies.nearest) if copies is not None else ()
    return Judged(
        generated=found.generated,
        decoded=found.decoded,
        nearest=tuple(_pairs(moments, folder, corpus)),
    )


def expected_seconds(corpus: Corpus) -> float:
    """What judging takes where the corpus has not been measured before."""
    return COST * (corpus.seconds("train") + 2 * corpus.seconds("val"))


def spread(moments: Sequence[NearestMoment]) -> tuple[NearestMoment, ...]:
    """The nearest `PAIRS`, of which no two are at nearly the same place of a file on either side."""
    chosen: list[NearestMoment] = []
    for moment in moments:
        if len(chosen) == PAIRS:
            break
        if not any(_is_around(moment, other) for other in chosen):
            chosen.append(moment)
    return tuple(chosen)


def _is_around(one: NearestMoment, other: NearestMoment) -> bool:
    generated = one.file == other.file and abs(one.time_s - other.time_s) < _SECONDS
    return generated or (
        one.source == other.source and abs(one.source_time_s - other.source_time_s) < _SECONDS
    )


def _pairs(moments: Sequence[NearestMoment], folder: Path, corpus: Corpus) -> Iterator[NearestPair]:
    for moment in moments:
        yield NearestPair(moment=moment, generated=_generated(folder, moment), source=_source(corpus, moment))


def _generated(folder: Path, moment: NearestMoment) -> Sound | None:
    path = next((path for path in (Path(moment.file), folder / moment.file) if path.is_file()), None)
    if path is None:
        return None
    try:
        return read_sound(path, "generated", start_s=moment.time_s, seconds=_SECONDS)
    except (OSError, soundfile.LibsndfileError):
        return None


def _source(corpus: Corpus, moment: NearestMoment) -> Sound | None:
    file = next((file for file in corpus.files("train") if file.path == moment.source), None)
    if file is None:
        return None
    start = min(max(0, round(moment.source_time_s * corpus.sample_rate)), file.samples)
    length = min(round(_SECONDS * corpus.sample_rate), file.samples - start)
    pcm_CT = np.empty((corpus.channels, length), np.int16)
    corpus.read_into(pcm_CT, file, start)
    audio_TC = np.ascontiguousarray(pcm_CT.T, np.float32) / np.float32(32768)
    return Sound(label="training audio", audio_TC=audio_TC, sample_rate=corpus.sample_rate)
