from __future__ import annotations

import hashlib

import pytest

from distill_ray.corpus.manifest import CorpusFile
from distill_ray.corpus.parts import end_of, join, part


def recording(name: str, samples: int = 1_000) -> CorpusFile:
    return CorpusFile(
        path=f"{name}.wav",
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        samples=samples,
        split="train",
        source_rate=8_000,
        source_channels=1,
        clipped=3,
        shard="s.arrow",
        start=50,
    )


@pytest.mark.parametrize("held_out", [1, 100, 999])
def test_the_parts_lie_behind_each_other_and_join_to_the_recording(held_out: int) -> None:
    whole = recording("a")
    trained, end = part(whole, held_out)
    assert (trained.start, trained.samples, trained.split) == (50, 1_000 - held_out, "train")
    assert (end.start, end.samples, end.split) == (1_050 - held_out, held_out, "val")
    assert (trained.sha256, end.sha256) == (whole.sha256, end_of(whole.sha256))
    assert trained.clipped + end.clipped == 3
    assert end.path == "a.wav (its end)"
    other = recording("b")
    assert join([end, other, trained]) == {other.sha256: other, whole.sha256: whole}


def test_whole_recordings_stay() -> None:
    files = {each.sha256: each for each in (recording("a"), recording("b"))}
    assert join(files.values()) == files
    assert join([]) == {}
