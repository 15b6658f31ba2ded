"""What the judge of generated sound finds, as records and as table cells; standard library only.

`reference.py` fills `Judgement`, `copies.py` its `copies` and continuations, and `evaluate.py` a
`CodeMeasures`; `report.py` puts them beside the codec's scores, and the HTML report reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_ray.vqvae.health import CodeAgreement

JUDGEMENT_HEADER = ("measure", "value", "ratio", "95 % interval", "halves", "held out")
LEVEL_HEADER = ("levels", "generated", "decoded", "training audio")
NEAREST_HEADER = ("sound", "at", "nearest training moment", "at", "distance", "ratio")
_MOST_NEAREST = 5
GROUPS = ("spectrum", "modulation", "tonality", "texture", "embedding", "structure")
"""Names of the groups of features, in the order of their report (`features.py`)."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval over bootstrap draws of whole sounds and seeds."""

    low: float
    high: float

    def to_json(self) -> list[float]:
        """[low, high]."""
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Distances of a set of windows to the training audio's windows, in the joined features.

    frechet: Fréchet distance, ≥ 0, lower is better; kernel: unbiased squared MMD with an RBF kernel, around 0
    for equal distributions, lower is better; coverage: share of training windows with a window of the set
    within their fifth-nearest neighbour, 0 to 1, higher is better; density: how many such neighbourhoods a
    window of the set lies in, over what five would be, about 1 for equal distributions.
    windows: how many of the set were compared at once.
    """

    windows: int
    frechet: float
    kernel: float
    coverage: float
    density: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """One group of features by itself; `halves` and `held_out` are the Fréchet distances of the floors."""

    windows: int
    frechet: float
    ratio: float
    ratio_interval: Interval
    halves: float
    held_out: float | None

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "ratio_interval": self.ratio_interval.to_json()}


@dataclass(frozen=True, kw_only=True)
class Floors:
    """What the same measures give for real audio.

    halves: one of two interleaved halves of the training audio against the other, in as many windows as the
    generated sound has; held_out: recordings that were not trained on; None where there are none.
    """

    halves: Measures
    held_out: Measures | None


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Levels of a set of sounds (`levels.py`); decibels are of full scale, shares from 0 to 1.

    silence_share: of 50 ms blocks below −60 dBFS; longest_silence_s: the longest run of such blocks in one
    sound; loudness_to_corpus_db: BS.1770 loudness less that of the training audio; drift_db: RMS of the last
    third less that of the first, the mean over sounds of at least 6 s; centroid_drift_octaves: the same for
    the spectral centroid; channel_correlation, side_share: of two channels, else None.
    Values are None where there is too little sound to say.
    """

    peak_dbfs: float | None
    loudness_lufs: float | None
    loudness_to_corpus_db: float | None
    clipped_share: float
    silence_share: float
    longest_silence_s: float
    drift_db: float | None
    centroid_drift_octaves: float | None
    channel_correlation: float | None
    side_share: float | None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class NearestMoment:
    """A generated second and the training moment that is nearest to it.

    ratio: `distance` over what held-out audio has (its median); below 1 it is nearer than held-out audio;
    None where nothing was held out.
    """

    file: str
    time_s: float
    source: str
    source_time_s: float
    distance: float
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Whether the generated sound is copied from the training audio (`copies.py`).

    verdict: "copies found", "none found" or "cannot be judged"; share: of generated seconds that count as
    copies; false_positive_rate: the same share of `calibration_windows` windows that copy nothing: those of
    held-out recordings, or also of training files against all others (calibrated_on_held_out false);
    threshold: the distance below which a second counts; longest_s: the longest copied stretch; nearest: the
    nearest moment of every audible second, nearest first.
    """

    verdict: str
    share: float
    false_positive_rate: float | None
    calibration_windows: int = 0
    calibrated_on_held_out: bool = False
    threshold: float | None = None
    longest_s: float = 0.0
    nearest: tuple[NearestMoment, ...] = ()

    def to_json(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        return {**document, "nearest": [dataclasses.asdict(moment) for moment in self.nearest]}


@dataclass(frozen=True, kw_only=True)
class CodeMeasures(CodeAgreement):
    """Whether a codec's codes can be predicted.

    below_histogram: how far the prior's held-out cost is below that of each level's own histogram, as a
    share; None without a prior.
    """

    below_histogram: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How near a set of sounds is to the training audio, and how that compares with real audio.

    windows, sounds, seconds: how much was judged; measures: of the joined features; ratio: the joined Fréchet
    distance over that of the halves, 1 for sound that cannot be told from the training audio.
    exact_continuations, held_out_continuations: shares of training and of held-out prompts whose continuation
    comes back exactly (`copies.py`); None where nothing was continued.
    warnings: what makes the figures less certain, a sentence each.
    """

    windows: int
    sounds: int
    seconds: float
    measures: Measures
    ratio: float
    ratio_interval: Interval
    groups: Mapping[str, GroupScore]
    floors: Floors
    levels: Levels
    training_levels: Levels
    copies: Copies | None = None
    exact_continuations: float | None = None
    held_out_continuations: float | None = None
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The value of `generated` or `decoded` in `distill-ray evaluate --json`."""
        halves, held_out = self.floors.halves, self.floors.held_out
        return {
            "windows": self.windows,
            "sounds": self.sounds,
            "seconds": self.seconds,
            "ratio": self.ratio,
            "ratio_interval": self.ratio_interval.to_json(),
            "frechet": self.measures.frechet,
            "kernel": self.measures.kernel,
            "coverage": self.measures.coverage,
            "density": self.measures.density,
            "groups": {name: score.to_json() for name, score in self.groups.items()},
            "floors": {
                "halves": halves.frechet,
                "held_out": None if held_out is None else held_out.frechet,
            },
            "floor_measures": {
                "halves": halves.to_json(),
                "held_out": None if held_out is None else held_out.to_json(),
            },
            **self.levels.to_json(),
            "training_levels": self.training_levels.to_json(),
            "copies": None if self.copies is None else self.copies.to_json(),
            "exact_continuations": self.exact_continuations,
            "held_out_continuations": self.held_out_continuations,
            "warnings": list(self.warnings),
        }

    def rows(self) -> list[tuple[object, ...]]:
        """Rows of the table with `JUDGEMENT_HEADER`: the joined measures, then each group's distance."""
        halves, held_out = self.floors.halves, self.floors.held_out
        rows: list[tuple[object, ...]] = [
            (
                "Fréchet distance",
                self.measures.frechet,
                self.ratio,
                _spoken(self.ratio_interval),
                halves.frechet,
                None if held_out is None else held_out.frechet,
            )
        ]
        for name in ("kernel", "coverage", "density"):
            value, low = getattr(self.measures, name), getattr(halves, name)
            rows.append((name, value, None, "", low, None if held_out is None else getattr(held_out, name)))
        for name, score in self.groups.items():
            interval = _spoken(score.ratio_interval)
            rows.append((f"  {name}", score.frechet, score.ratio, interval, score.halves, score.held_out))
        return rows


def copy_rows(generated: Judgement) -> list[tuple[str, str]]:
    """What was found about copies, as labels and values; nothing where it was not looked for."""
    found, rows = generated.copies, []
    if found is not None:
        rows += [
            ("verdict", found.verdict),
            ("seconds that count as copies", f"{found.share:.1%}"),
            ("longest copied stretch", f"{found.longest_s:.1f} s"),
            (
                "false-positive rate",
                f"{_shown(found.false_positive_rate, '{:.1%}')} of {found.calibration_windows} windows "
                f"of {'held-out' if found.calibrated_on_held_out else 'held-out and training'} audio",
            ),
        ]
    if generated.exact_continuations is not None:
        rows.append(("training prompts continued exactly", f"{generated.exact_continuations:.0%}"))
    if generated.held_out_continuations is not None:
        rows.append(("held-out prompts continued exactly", f"{generated.held_out_continuations:.0%}"))
    return rows


def nearest_rows(generated: Judgement) -> list[tuple[object, ...]]:
    """Rows of the table with `NEAREST_HEADER`: the nearest moment of each sound, at most
    five, nearest first.
    """
    first: dict[str, NearestMoment] = {}
    for moment in generated.copies.nearest if generated.copies is not None else ():
        first.setdefault(moment.file, moment)
    return [
        (
            each.file,
            f"{each.time_s:.1f} s",
            "/".join(each.source.rsplit("/", 2)[-2:]),  # folder and name
            f"{each.source_time_s:.1f} s",
            each.distance,
            each.ratio,
        )
        for each in list(first.values())[:_MOST_NEAREST]
    ]


def level_rows(generated: Judgement, decoded: Judgement) -> list[tuple[str, ...]]:
    """Rows of the table with `LEVEL_HEADER`; what none of the three has is left out."""
    columns = [generated.levels, decoded.levels, generated.training_levels]
    rows = [
        (label, *(_shown(getattr(each, name), form) for each in columns)) for label, name, form in _LEVELS
    ]
    return [row for row in rows if any(cell != _NOTHING for cell in row[1:])]


_NOTHING = "–"
_LEVELS = (
    ("peak, dBFS", "peak_dbfs", "{:.1f}"),
    ("loudness, LUFS", "loudness_lufs", "{:.1f}"),
    ("loudness to the corpus, dB", "loudness_to_corpus_db", "{:+.1f}"),
    ("clipped samples", "clipped_share", "{:.3%}"),
    ("silent", "silence_share", "{:.1%}"),
    ("longest silence, s", "longest_silence_s", "{:.2f}"),
    ("last third to first: level, dB", "drift_db", "{:+.1f}"),
    ("last third to first: brightness, octaves", "centroid_drift_octaves", "{:+.2f}"),
    ("correlation of the channels", "channel_correlation", "{:.2f}"),
    ("share of the side channel", "side_share", "{:.1%}"),
)


def _shown(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)


def _spoken(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"
