from __future__ import annotations

from distill_ray.corpus.manifest import RejectedFile
from distill_ray.corpus.report import PrepareReport, listing


def report(rejected: int = 0, removed: int = 0) -> PrepareReport:
    return PrepareReport(
        out="/c",
        digest="d",
        sample_rate=8_000,
        channels=1,
        files=3,
        files_train=2,
        files_val=1,
        reused=0,
        decoded=3,
        removed=removed,
        split_kept=False,
        parted=False,
        duplicates=(),
        rejected=tuple(RejectedFile(path=f"{n}.wav", reason="it is silent") for n in range(rejected)),
        seconds_train=2.0,
        seconds_val=1.0,
        clipped_samples=0,
        elapsed_s=0.1,
    )


def test_nothing_is_said_of_nothing() -> None:
    assert (report().rejection(), report().removal(), listing([])) == (None, None, "")


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
