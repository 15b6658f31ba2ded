from __future__ import annotations

import dataclasses

from distill_ray.corpus.manifest import CorpusFile, DuplicateFile, RejectedFile
from distill_ray.corpus.oddities import oddities
from distill_ray.corpus.prepare_report import PrepareReport, listing


def report(rejected: int = 0, removed: int = 0, parted: int = 0, val: int = 1) -> PrepareReport:
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
        seconds_val=20.0,
        clipped_samples=0,
        mixed=0,
        elapsed_s=0.1,
    )


def test_nothing_is_said_of_nothing() -> None:
    assert (report().findings(), listing([])) == ((), "")


def test_what_cannot_be_used_is_a_row_for_each_reason() -> None:
    assert report(1).findings() == (("left out", "0.wav", "it is silent"),)
    assert report(14).findings() == (("left out", "0.wav, 1.wav and 12 more", "it is silent"),)
    reasons = tuple(RejectedFile(path=f"/in/{n}.wav", reason=f"reason {n % 9}") for n in range(20))
    rows = dataclasses.replace(report(), rejected=reasons, sources=("/in/",)).findings()
    assert rows[0] == ("left out", "0.wav, 9.wav and 1 more", "reason 0")
    assert rows[6:] == (("left out", "6 more", "prepare --json names them all"),)


def test_copies_and_hidden_files_are_named_and_many_are_counted() -> None:
    copies = tuple(DuplicateFile(path=f"/in/{n} (copy).wav", same_as=f"/in/{n}.wav") for n in range(6))
    made = dataclasses.replace(
        report(), duplicates=copies, sources=("/in",), hidden=("/in/.a", "/in/.b.wav", "/in/.c")
    )
    rows = made.findings()
    assert rows[0] == ("copy", "0 (copy).wav", "a copy of 0.wav")
    assert rows[4] == ("copy", "2 more", "taken once each")
    assert rows[5] == ("hidden", ".a, .b.wav and 1 more", "a dot in front: name it to use it")


def test_what_has_left_the_corpus_and_what_is_held_out_is_counted() -> None:
    rows = dataclasses.replace(report(removed=1_200), seconds_val=1.0).findings()
    assert rows == (
        ("removed", "1,200 files", "no longer in the sources; name all to keep them"),
        ("held out", "1.0 s", "little: the best epoch is partly chance"),
    )


def file(name: str, **facts: object) -> CorpusFile:
    values: dict[str, object] = {
        "sha256": name,
        "samples": 100_000,
        "split": "train",
        "source_rate": 8_000,
        "source_channels": 1,
        "clipped": 0,
        "shard": "s",
        "start": 0,
    }
    return CorpusFile(path=f"/in/{name}", **{**values, **facts})  # type: ignore[arg-type]


def test_what_is_odd_about_files_that_are_used() -> None:
    files = [
        file("fine.wav", offset=0.0049, mixed_db=-9.9, clipped=1),
        file("dc.wav", offset=-0.018),
        file("more dc.wav", offset=0.006),
        file("wide.wav", mixed_db=-26.0),
        file("loud.wav", clipped=12_000),
        file("crashed.wav", note="its header says that it is empty; it was decoded to its end"),
    ]
    rows = dataclasses.replace(report(), odd=tuple(oddities(files)), sources=("/in",)).findings()
    assert rows == (
        ("repaired", "crashed.wav", "its header says that it is empty; it was decoded to its end"),
        ("cancelling", "wide.wav", "the mono mix is 26 dB weaker; --channels 2"),
        ("offset", "dc.wav, more dc.wav", "its mean of -0.018 is learnt; high-pass it"),
        ("clipped", "loud.wav", "12,000 samples beyond full scale"),
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
