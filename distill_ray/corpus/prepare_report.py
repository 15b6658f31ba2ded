"""What the preparation of a corpus did, and what of it somebody should be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distill_ray.corpus.manifest import DuplicateFile, RejectedFile
from distill_ray.corpus.oddities import Oddity
from distill_ray.corpus.split import LEAST_HELD_OUT_SECONDS

LISTED = 12
_REASONS, _NAMED, _COPIES = 6, 2, 4

Row = tuple[str, str, str]
"""What was found, of which files, and what it means."""


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a preparation did and what the corpus holds now: `files` = `reused` + `decoded`.

    `removed` files were in the corpus, and the sources hold their content no more. `split_kept`: files keep
    the side that they had, so another share is held out than was asked for. Of `parted` files the end is
    held out: they are among `files_train` and among `files_val`. `mixed` files have more channels than the
    corpus; `hidden` ones were passed over; `odd` ones are used. Seconds are of audio, except `elapsed_s`.
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
    sources: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    odd: tuple[Oddity, ...] = ()

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

    def findings(self) -> tuple[Row, ...]:
        """What somebody who only named a folder should know."""
        return tuple(_findings(self))


def _findings(report: PrepareReport) -> Iterator[Row]:
    """The rows of the table, those that cost most first."""
    yield from _left_out(report)
    yield from _copies(report)
    odd: Mapping[str, list[Oddity]] = defaultdict(list)
    for each in report.odd:
        odd[each.kind].append(each)
    for kind, explain in _MEANINGS.items():
        if odd[kind]:
            names = _names([_short(each.path, report) for each in odd[kind]])
            yield (kind, names, explain(odd[kind]))
    if report.mixed:
        files = f"{report.mixed:,} of {_files(report.files)}"
        meaning = "to mono; --channels 2 keeps two" if report.channels == 1 else "the first two channels stay"
        yield ("mixed", files, meaning)
    if report.hidden:
        names = _names([_short(path, report) for path in report.hidden])
        meaning = "a dot in front: name it to use it"
        yield ("hidden", names, meaning)
    if report.removed:
        meaning = "no longer in the sources; name all to keep them"
        yield ("removed", _files(report.removed), meaning)
    if 0 < report.seconds_val < LEAST_HELD_OUT_SECONDS:
        meaning = "little: the best epoch is partly chance"
        yield ("held out", f"{report.seconds_val:.1f} s", meaning)


def _left_out(report: PrepareReport) -> Iterator[Row]:
    """One row for each reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for bad in report.rejected:
        reasons[bad.reason].append(_short(bad.path, report))
    for reason, paths in [*reasons.items()][:_REASONS]:
        yield ("left out", _names(paths), reason)
    more = sum(len(paths) for paths in [*reasons.values()][_REASONS:])
    if more:
        yield ("left out", f"{more:,} more", "prepare --json names them all")


def _copies(report: PrepareReport) -> Iterator[Row]:
    for copy in report.duplicates[:_COPIES]:
        meaning = f"{'the samples' if copy.twin else 'a copy'} of {_short(copy.same_as, report)}"
        yield ("copy", _short(copy.path, report), meaning)
    more = len(report.duplicates) - _COPIES
    if more > 0:
        yield ("copy", f"{more:,} more", "taken once each")


def _cancelling(some: Sequence[Oddity]) -> str:
    least = min(each.value for each in some)
    return f"the mono mix is {-least:.0f} dB weaker; --channels 2"


def _offset(some: Sequence[Oddity]) -> str:
    most = max((each.value for each in some), key=abs)
    return f"its mean of {most:.3f} is learnt; high-pass it"


def _clipped(some: Sequence[Oddity]) -> str:
    return f"{sum(each.value for each in some):,.0f} samples beyond full scale"


_MEANINGS: Mapping[str, Callable[[Sequence[Oddity]], str]] = {
    "repaired": lambda some: some[0].note,
    "cancelling": _cancelling,
    "offset": _offset,
    "clipped": _clipped,
}


def _names(paths: Sequence[str]) -> str:
    named = ", ".join(paths[:_NAMED])
    return f"{named} and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else named


def _short(path: str, report: PrepareReport) -> str:
    """A path below the one folder that was given."""
    return path.removeprefix(f"{report.sources[0].rstrip('/')}/") if len(report.sources) == 1 else path


def listing(rejected: Sequence[RejectedFile]) -> str:
    """The first of `rejected` with their reasons, on one line."""
    reasons = [f"{bad.path}: {bad.reason}" for bad in rejected[:LISTED]]
    if len(rejected) > LISTED:
        reasons.append(f"and {len(rejected) - LISTED} more")
    return "; ".join(reasons)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
