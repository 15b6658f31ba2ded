"""Whether a prior has memorised its training data: three kinds of evidence, numpy only.

1. The train–validation gap. A prior that needs far fewer nats for codes that it was trained on than for
   held-out ones has learnt them by heart. How low either loss is says nothing: a repetitive or deterministic
   source makes both low, and that is generalisation.
2. Runs of frames that generated codes share with training codes. Music repeats itself, so what counts is how
   much longer these runs are than those that held-out recordings share with the same training codes.

3. The judge's copies (`evaluate/copies.py`) in sound that was generated, which every altered copy of a
   recording would slip past in codes.

Frames are compared in two views: by their first levels alone (near copies, whose fine levels differ) and by
all levels (verbatim copies). A frame equal to the one before it is dropped first, so that silence and held
tones do not pass for long runs. A run of n frames occurs in training where its polynomial rolling hash (Karp
and Rabin 1987, modulo 2^64, over randomised frame hashes) does; longer runs are looked for
only where shorter ones were found, so that hours of codes take seconds.

Legend: Q RVQ levels, T code frames, N frames of all sequences end to end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from distill_ray.argument_types import checks_arguments

COARSE_LEVELS = 2
# The gap counts where training codes cost this much less than held-out ones, in nats and in proportion.
GAP_NATS = 0.2
GAP_SHARE = 0.3
# A run counts from twice the length that held-out audio usually reaches, and this many frames more.
RUN_FACTOR = 2
RUN_MARGIN = 8
LEAST_PIECE = 2 * RUN_MARGIN
# Runs count where they make up this much more of the generated frames than of the held-out ones.
MATCH_SHARE = 0.05
# Prompts count where this much more of the training ones than of the held-out ones come back.
CONTINUED_SHARE = 0.1

COPIES = "copies found"
"""The judge's verdict that convicts."""

Codes = npt.NDArray[np.integer]
Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)


class ArrayLike(Protocol):
    """codes [Q, T] as a numpy array or a CPU tensor."""

    def __array__(self) -> np.ndarray: ...


class ExtractionLike(Protocol):
    """`extraction.Extraction`, which is torch's side of this: shares of prompts that came back."""

    @property
    def training_share(self) -> float | None: ...

    @property
    def held_out_share(self) -> float | None: ...


class CopiesLike(Protocol):
    """`evaluate.judgement.Copies`: the judge's verdict on generated sound."""

    @property
    def verdict(self) -> str: ...

    @property
    def share(self) -> float: ...

    @property
    def false_positive_rate(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class MatchReport:
    """Runs shared with training codes, seen through the first `levels` levels; lengths in frames.

    longest_match_frames, held_out_frames: longest run of the generated codes; what the longest run stays
    within in nine tenths of the held-out audio. match_share, held_out_share: share of frames in runs of
    threshold_frames or more. false_positive_rate: what held_out_share is where each half of the held-out
    recordings has its threshold from the other half; None for a single short one.
    """

    levels: int
    longest_match_frames: int
    held_out_frames: int
    threshold_frames: int
    match_share: float
    held_out_share: float
    false_positive_rate: float | None = None

    @property
    def is_memorizing(self) -> bool:
        """Whether generated codes repeat training codes clearly more than held-out codes do."""
        return self.match_share > self.held_out_share + MATCH_SHARE


@dataclass(frozen=True, kw_only=True)
class MemorizationReport:
    """The verdict and what it rests on; None where a piece of evidence was not given.

    gap = val_loss - train_loss in nats per code. longest_match_frames, threshold_frames, match_share and
    false_positive_rate are those of the view in `matches` that speaks most for memorisation.
    exact_continuations, held_out_continuations: shares of training and of held-out prompts whose continuation
    came back (`extraction.py`).
    """

    is_memorizing: bool
    message: str
    train_loss: float | None = None
    val_loss: float | None = None
    gap: float | None = None
    longest_match_frames: int | None = None
    threshold_frames: int | None = None
    match_share: float | None = None
    false_positive_rate: float | None = None
    exact_continuations: float | None = None
    held_out_continuations: float | None = None
    copied_share: float | None = None
    """Of generated seconds that the judge counts as copies."""
    matches: tuple[MatchReport, ...] = ()

    @property
    def verdict(self) -> str:
        """In two or three words; that it cannot be judged where no piece of evidence was given."""
        if self.is_memorizing:
            return "memorised"
        evidence = (self.gap, self.match_share, self.exact_continuations, self.copied_share)
        return "not memorised" if any(part is not None for part in evidence) else "cannot be judged"

    def to_json(self) -> dict[str, Any]:
        """What a model's manifest says of it."""
        fields = dataclasses.asdict(self)
        del fields["matches"]
        return {"verdict": self.verdict, **fields}


@checks_arguments
def check_memorization(
    *,
    train_loss: float | None = None,
    val_loss: float | None = None,
    generated: Sequence[ArrayLike] = (),
    train: Sequence[ArrayLike] = (),
    held_out: Sequence[ArrayLike] = (),
    frame_rate: float | None = None,
    extraction: ExtractionLike | None = None,
    copies: CopiesLike | None = None,
) -> MemorizationReport:
    """Judge a prior by its losses, by what it generates, by how it continues; each may convict it.

    train_loss, val_loss: nats per code, both measured in eval mode on windows of the same kind.
    generated, train, held_out: codes [Q, T]; runs are looked for only where all three are given, as their
    length means nothing without held-out recordings to compare with. frame_rate: frames a second, for times
    in the message. extraction: continuations of training and of held-out prompts. copies: what the judge
    found in sound that it generated. What cannot be judged is said in the message and is not called
    memorising.
    """
    gap = None if train_loss is None or val_loss is None else val_loss - train_loss
    by_gap = gap is not None and val_loss is not None and gap > max(GAP_NATS, GAP_SHARE * val_loss)
    matches = _matches(generated, train, held_out)
    worst = max(matches, key=lambda match: match.match_share - match.held_out_share, default=None)
    by_match = worst is not None and worst.is_memorizing
    by_prompts = False
    # The causes of a verdict come first, so each sentence stands beside whether it is one.
    said: list[tuple[bool, str]] = []
    if gap is not None:
        text = (
            f"the prior needs {train_loss:.2f} nats a code for training and {val_loss:.2f} for held-out audio"
        )
        said.append((by_gap, text + (", far fewer nats for what it knows" if by_gap else "")))
    if worst is not None:
        said.append((by_match, _match_sentence(worst, frame_rate)))
    elif len(generated) and len(train) and len(held_out):
        said.append((False, "what is held out, or generated, is too short to look for copies"))
    if extraction is not None and extraction.training_share is not None:
        known, others = extraction.training_share, extraction.held_out_share or 0.0
        by_prompts = known > others + CONTINUED_SHARE
        text = f"{known:.0%} of training prompts and {others:.0%} of held-out ones are continued as the "
        text += "recording is"
        said.append((by_prompts, text))
    by_copies = copies is not None and copies.verdict == COPIES
    if copies is not None:
        said.append((by_copies, _copies_sentence(copies)))
    sentences = [text for _, text in sorted(said, key=lambda each: not each[0])]
    if not sentences:
        sentences.append("nothing was held out, so memorisation cannot be judged")
    elif by_gap or by_match or by_prompts or by_copies:
        sentences.append("train it for less time, make it smaller or add audio")
    text = "; ".join(sentences)
    return MemorizationReport(
        is_memorizing=by_gap or by_match or by_prompts or by_copies,
        message=f"{text[0].upper()}{text[1:]}.",
        train_loss=train_loss,
        val_loss=val_loss,
        gap=gap,
        longest_match_frames=worst.longest_match_frames if worst else None,
        threshold_frames=worst.threshold_frames if worst else None,
        match_share=worst.match_share if worst else None,
        false_positive_rate=worst.false_positive_rate if worst else None,
        exact_continuations=extraction.training_share if extraction else None,
        held_out_continuations=extraction.held_out_share if extraction else None,
        copied_share=copies.share if copies else None,
        matches=matches,
    )


def with_copies(record: Mapping[str, Any], copies: CopiesLike) -> dict[str, Any]:
    """A record that `MemorizationReport.to_json` made, with what the judge found since."""
    found = check_memorization(copies=copies)
    before = record.get("is_memorizing") is True
    convicted = found.is_memorizing or before
    messages = [record.get("message"), found.message]
    if found.is_memorizing and not before:  # the cause of the verdict first
        messages.reverse()
    return {
        **record,
        "verdict": "memorised" if convicted else record.get("verdict", found.verdict),
        "is_memorizing": convicted,
        "message": " ".join(filter(None, messages)),
        "copied_share": copies.share,
    }


def _copies_sentence(copies: CopiesLike) -> str:
    rate = copies.false_positive_rate
    beside = "" if rate is None else f", and {rate:.1%} of audio that copies nothing would"
    return f"{copies.share:.1%} of generated seconds count as copies of the training audio{beside}"


def _match_sentence(match: MatchReport, frame_rate: float | None) -> str:
    def length(frames: int) -> str:
        return f"{frames} frames" if frame_rate is None else f"{frames / frame_rate:.2f} s"

    return (
        f"{match.match_share:.0%} of the generated frames repeat {length(match.threshold_frames)} or more of "
        f"the training codes (first {match.levels} levels, longest {length(match.longest_match_frames)}), "
        f"against {match.held_out_share:.0%} of held-out ones"
    )


def _matches(
    generated: Sequence[ArrayLike], train: Sequence[ArrayLike], held_out: Sequence[ArrayLike]
) -> tuple[MatchReport, ...]:
    if not (len(generated) and len(train) and len(held_out)):
        return ()
    levels = np.asarray(generated[0]).shape[0]
    views = sorted({min(COARSE_LEVELS, levels), levels})
    found = (_match(generated, train, held_out, view) for view in views)
    return tuple(match for match in found if match is not None)


def _match(
    generated: Sequence[ArrayLike], train: Sequence[ArrayLike], held_out: Sequence[ArrayLike], levels: int
) -> MatchReport | None:
    """None where pieces are too short for runs that count."""
    ours, theirs, known = (
        [_frame_hashes(np.asarray(codes)[:levels]) for codes in group]
        for group in (generated, held_out, train)
    )
    # Longer pieces share longer runs by chance alone: both sides are cut alike.
    piece = min(max(map(len, ours)), max(map(len, theirs)))
    if piece < LEAST_PIECE:
        return None
    trained = _Runs(known)
    ours_shared = _Shared.of(_Runs(_cut(ours, piece)), trained)
    theirs_shared = _Shared.of(_Runs(_cut(theirs, piece)), trained)
    usual = _usual_longest(theirs_shared)
    threshold = _threshold(usual)
    return MatchReport(
        levels=levels,
        longest_match_frames=_longest(ours_shared),
        held_out_frames=usual,
        threshold_frames=threshold,
        match_share=ours_shared.longer(threshold).share(),
        held_out_share=theirs_shared.longer(threshold).share(),
        false_positive_rate=_false_positive_rate(theirs, piece, trained),
    )


def _threshold(usual: int) -> int:
    return RUN_FACTOR * usual + RUN_MARGIN


def _false_positive_rate(theirs: Sequence[Hashes], piece: int, trained: _Runs) -> float | None:
    """Share of held-out frames in runs that count, with each half's threshold from the other half.

    Halves are of whole recordings, or of the pieces of a single one.
    """
    parts = theirs if len(theirs) > 1 else _cut(theirs, piece)
    if len(parts) < 2:
        return None
    first, second = (_Shared.of(_Runs(_cut(parts[half::2], piece)), trained) for half in (0, 1))
    frames = mistaken = 0.0
    for judged, other in ((first, second), (second, first)):
        count = len(judged.ours.all_places())
        frames += count
        mistaken += count * judged.longer(_threshold(_usual_longest(other))).share()
    return mistaken / frames


def _frame_hashes(codes_QT: Codes) -> Hashes:
    """One random-looking number a frame (SplitMix64 over the levels); repeated frames dropped."""
    hashes = np.zeros(codes_QT.shape[1], dtype=np.uint64)
    for codes_T in codes_QT:
        hashes = _mix(hashes ^ (codes_T.astype(np.uint64) + np.uint64(1)))
    changed = np.ones(len(hashes), dtype=bool)
    changed[1:] = hashes[1:] != hashes[:-1]
    return hashes[changed]


def _mix(z: Hashes) -> Hashes:
    z = z + _BASE
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _cut(sequences: Sequence[Hashes], piece: int) -> list[Hashes]:
    """Equal parts of each sequence, none longer than `piece`."""
    return [part for each in sequences for part in np.array_split(each, -(-len(each) // piece))]


class _Runs:
    """Sequences end to end with prefix hashes, so that the hash of any run is one subtraction."""

    def __init__(self, sequences: Sequence[Hashes]) -> None:
        self.lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        self.ends = self.lengths.cumsum()
        self._end_N = np.repeat(self.ends, self.lengths)
        frames_N = np.concatenate(sequences)
        # prefix[i] = sum over j < i of frame[j] * base^(-j); a run's hash is scaled back to its first frame.
        inverse = pow(int(_BASE), -1, 2**64)
        self._up_N = _powers(int(_BASE), len(frames_N))
        self._prefix = np.zeros(len(frames_N) + 1, dtype=np.uint64)
        np.cumsum(frames_N * _powers(inverse, len(frames_N)), out=self._prefix[1:])

    def all_places(self) -> Places:
        """Where a run may begin."""
        return np.arange(len(self._end_N))

    def fitting(self, places: Places, frames: int) -> Places:
        """Those from which a run of `frames` frames stays inside its sequence."""
        return places[places + frames <= self._end_N[places]]

    def hashes(self, places: Places, frames: int) -> Hashes:
        """Of the runs of `frames` frames at `places`."""
        return (self._prefix[places + frames] - self._prefix[places]) * self._up_N[places]


@dataclass(frozen=True)
class _Shared:
    """The runs of `frames` frames that two sides have in common, by where they begin on each side."""

    ours: _Runs
    theirs: _Runs
    frames: int
    our_places: Places
    their_places: Places

    @classmethod
    def of(cls, ours: _Runs, theirs: _Runs) -> _Shared:
        """The runs of no frames: every place begins one."""
        return cls(ours, theirs, 0, ours.all_places(), theirs.all_places())

    def __bool__(self) -> bool:
        return len(self.our_places) > 0

    def longer(self, frames: int) -> _Shared:
        """The runs of `frames` frames; they begin where shorter ones do, so only those are compared."""
        assert frames >= self.frames
        our_places = self.ours.fitting(self.our_places, frames)
        their_places = self.theirs.fitting(self.their_places, frames)
        distinct, inverse = np.unique(self.ours.hashes(our_places, frames), return_inverse=True)
        if len(distinct):
            hashes = self.theirs.hashes(their_places, frames)
            place = np.minimum(np.searchsorted(distinct, hashes), len(distinct) - 1)
            equal = distinct[place] == hashes
            present = np.zeros(len(distinct), dtype=bool)
            present[place[equal]] = True
            our_places, their_places = our_places[present[inverse]], their_places[equal]
        return _Shared(self.ours, self.theirs, frames, our_places, their_places)

    def share(self) -> float:
        """Share of our frames that lie in these runs."""
        edge = np.zeros(len(self.ours.all_places()) + 1, dtype=np.int64)
        edge[self.our_places] += 1
        edge[self.our_places + self.frames] -= 1
        return float((edge.cumsum()[:-1] > 0).mean())


def _longest(shared: _Shared) -> int:
    """Frames of the longest common run."""
    high = 1
    while longer := shared.longer(high):
        shared, high = longer, 2 * high
    while high - shared.frames > 1:
        middle = (shared.frames + high) // 2
        if longer := shared.longer(middle):
            shared = longer
        else:
            high = middle
    return shared.frames


def _usual_longest(shared: _Shared) -> int:
    """What the longest common run stays within in those of our sequences that make up nine tenths of it.

    Not the very longest: one near-duplicate among the held-out files must not excuse all copying. Found on
    a grid of lengths and rounded up, to within a third.
    """
    runs, frames = shared.ours, 1
    upper = np.ones(len(runs.lengths), dtype=np.int64)
    while shared := shared.longer(frames):
        having = np.unique(np.searchsorted(runs.ends, shared.our_places, side="right"))
        frames = max(frames + 1, math.ceil(frames * 4 / 3))
        upper[having] = frames
    longest = np.minimum(upper - 1, runs.lengths)
    order = longest.argsort(kind="stable")
    held = runs.lengths[order].cumsum()
    return int(longest[order[np.searchsorted(held, 0.9 * held[-1])]])


def _powers(base: int, count: int) -> Hashes:
    """base^0 … base^(count - 1) modulo 2^64, by doubling."""
    powers = np.ones(count, dtype=np.uint64)
    done = 1
    while done < count:
        take = min(done, count - done)
        powers[done : done + take] = powers[:take] * np.uint64(pow(base, done, 2**64))
        done += take
    return powers
