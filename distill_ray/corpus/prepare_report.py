"""What the preparation of a corpus did, and what of it somebody should be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distill_ray.corpus.decode import CLIPPING_SHARE
from distill_ray.corpus.manifest import DuplicateFile, RejectedFile
from distill_ray.corpus.split import LEAST_HELD_OUT_SECONDS

LISTED = 12


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a preparation did and what the corpus holds now: `files` = `reused` + `decoded`.

    `removed` files were in the corpus, and the sources hold their content no more. `split_kept`: files keep
    the side that they had, so another share is held out than was asked for. Of `parted` files the end is
    held out: they are among `files_train` and among `files_val`. `mixed` files have more channels than the
    corpus. Seconds are of audio, except `elapsed_s`.
    """

    out: str
    digest: str
    sample_rate: int
    channels: int
    files: int
    files_train: int
    files_val: int
    reused: int
    decoded: int
    removed: int
    split_kept: bool
    parted: int
    duplicates: tuple[DuplicateFile, ...]
    rejected: tuple[RejectedFile, ...]
    seconds_train: float
    seconds_val: float
    clipped_samples: int
    mixed: int
    elapsed_s: float

    def to_json(self) -> dict[str, Any]:
        """The report as a dict for `json.dumps`."""
        return asdict(self)

    def held_out(self) -> str:
        """What is held out, in words."""
        whole = self.files_val - self.parted
        if not self.parted:
            return _files(whole)
        ends = f"the end of {_files(self.parted)}"
        return f"{_files(whole)} and {ends}" if whole else ends

    def notes(self) -> tuple[str, ...]:
        """What somebody who only named a folder should know, in a sentence each."""
        found = (
            self.rejection(),
            self.clipping(),
            self.removal(),
            self.duplication(),
            self.mixing(),
            self.short_held_out(),
        )
        return tuple(filter(None, found))

    def duplication(self) -> str | None:
        """Which files hold what others hold, in one sentence; None where none does."""
        if not self.duplicates:
            return None
        pairs = [f"{copy.path} is {copy.same_as}" for copy in self.duplicates[:LISTED]]
        if len(self.duplicates) > LISTED:
            pairs.append(f"and {len(self.duplicates) - LISTED} more")
        are = "is a copy" if len(self.duplicates) == 1 else "are copies"
        return f"{_files(len(self.duplicates))} {are} of another and taken once ({'; '.join(pairs)})"

    def mixing(self) -> str | None:
        """How many files lose channels, in one sentence; None where none does."""
        if not self.mixed:
            return None
        have, kept = ("has", "its") if self.mixed == 1 else ("have", "their")
        if self.channels == 1:
            return (
                f"{_files(self.mixed)} of {self.files} {have} several channels, which are mixed to one; "
                "--channels 2 of prepare, train and run keeps two"
            )
        return (
            f"{_files(self.mixed)} of {self.files} {have} more than two channels; {kept} first two are kept"
        )

    def short_held_out(self) -> str | None:
        """That little is held out, in one sentence; None where it is enough, or nothing on purpose."""
        if not 0 < self.seconds_val < LEAST_HELD_OUT_SECONDS:
            return None
        return (
            f"only {self.seconds_val:.1f} s are held out, so the choice of the best epoch and the ranks of a "
            "search are partly chance; add recordings"
        )

    def clipping(self) -> str | None:
        """How much was louder than full scale, in one sentence; None where next to nothing was."""
        samples = (self.seconds_train + self.seconds_val) * self.sample_rate * self.channels
        if self.clipped_samples <= CLIPPING_SHARE * samples:
            return None
        return f"{self.clipped_samples:,} samples beyond full scale are clipped; lower what is too loud"

    def rejection(self) -> str | None:
        """Which files are left out, in one sentence; None where all could be used."""
        if not self.rejected:
            return None
        are = "is" if len(self.rejected) == 1 else "are"
        return f"{_files(len(self.rejected))} cannot be used and {are} left out ({listing(self.rejected)})"

    def removal(self) -> str | None:
        """What has left the corpus, in one sentence; None where nothing has."""
        if not self.removed:
            return None
        are, were, them = ("is", "was", "it") if self.removed == 1 else ("are", "were", "them")
        return (
            f"{_files(self.removed)} that the corpus held {are} not in the given sources and {were} removed "
            f"from it; name all sources to keep {them}"
        )


def listing(rejected: Sequence[RejectedFile]) -> str:
    """The first of `rejected` with their reasons, on one line."""
    reasons = [f"{bad.path}: {bad.reason}" for bad in rejected[:LISTED]]
    if len(rejected) > LISTED:
        reasons.append(f"and {len(rejected) - LISTED} more")
    return "; ".join(reasons)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
