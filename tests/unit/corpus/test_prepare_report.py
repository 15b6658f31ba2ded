from __future__ import annotations

import dataclasses

from distill_ray.corpus.manifest import RejectedFile
from distill_ray.corpus.prepare_report import PrepareReport, listing


def report(
    rejected: int = 0, removed: int = 0, parted: int = 0, val: int = 1, clipped: int = 0
) -> PrepareReport:
    return PrepareReport(
        out="/c",
        digest="d",
        sample_rate=8_000,
        channels=1,
        files=3,
        files_train=2,
        files_val=val,
        reused=0,
        decoded=3,
        removed=removed,
        split_kept=False,
        parted=parted,
        duplicates=(),
        rejected=tuple(RejectedFile(path=f"{n}.wav", reason="it is silent") for n in range(rejected)),
        seconds_train=2.0,
        seconds_val=1.0,
        clipped_samples=clipped,
        mixed=0,
        elapsed_s=0.1,
    )


def test_nothing_is_said_of_nothing() -> None:
    nothing = report()
    assert (nothing.rejection(), nothing.removal(), nothing.clipping(), listing([])) == (None, None, None, "")


def test_what_cannot_be_used_is_named_with_its_reason() -> None:
    assert report(1).rejection() == "1 file cannot be used and is left out (0.wav: it is silent)"
    many = report(14).rejection()
    assert many is not None
    assert many.startswith("14 files cannot be used and are left out (0.wav: it is silent; 1.wav: it is ")
    assert many.endswith("; 11.wav: it is silent; and 2 more)")


def test_what_has_left_the_corpus_is_counted() -> None:
    assert report(removed=1).removal() == (
        "1 file that the corpus held is not in the given sources and was removed from it; name all sources "
        "to keep it"
    )
    assert report(removed=1_200).removal() == (
        "1,200 files that the corpus held are not in the given sources and were removed from it; name all "
        "sources to keep them"
    )


def test_what_is_held_out_is_files_and_ends() -> None:
    assert [
        report(val=val, parted=parted).held_out() for val, parted in [(0, 0), (2, 0), (1, 1), (3, 1)]
    ] == [
        "0 files",
        "2 files",
        "the end of 1 file",
        "2 files and the end of 1 file",
    ]


def test_clipped_samples_are_counted_unless_they_are_next_to_none() -> None:
    assert report(clipped=12_000).clipping() == (
        "12,000 samples beyond full scale are clipped; lower what is too loud"
    )
    long = dataclasses.replace(report(), seconds_train=999.0)  # of 1,000 s at 8 kHz 80 samples may be
    assert dataclasses.replace(long, clipped_samples=80).clipping() is None
    assert dataclasses.replace(long, clipped_samples=81).clipping() is not None
