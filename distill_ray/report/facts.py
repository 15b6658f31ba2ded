"""What a report shows: plain records, made by `collect.py` and drawn by `page.py`.

Shape suffixes: T samples, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill_ray.evaluate.judgement import Judgement, NearestMoment
from distill_ray.events.records import (
    CandidateRow,
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    TrainingCompleteEvent,
    TrialUpdate,
    VQEpochMetrics,
    VQStepMetrics,
)
from distill_ray.vqvae.health import CodeAgreement, LevelHealth


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of a list of facts."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting; `source` is "auto", "override" or, of a model's own manifest, empty."""

    table: str
    name: str
    value: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of figures as they are shown; `numeric` columns are aligned to the right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """A sound with its player: floats [T, C] in [-1, 1] at `sample_rate`."""

    label: str
    audio_TC: npt.NDArray[np.float32]
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.audio_TC) / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class SoundGroup:
    """Sounds that belong together: an original and its decodings, or those generated at one moment."""

    title: str
    sounds: tuple[Sound, ...]


@dataclass(frozen=True, kw_only=True)
class NearestPair:
    """A generated second beside the training moment that is nearest to it; sounds are None where their files
    cannot be read.
    """

    moment: NearestMoment
    generated: Sound | None
    source: Sound | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the judge measured of generated sound and of decoded held-out recordings."""

    generated: Judgement
    decoded: Judgement
    nearest: tuple[NearestPair, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training as its event log has it; a resumed run's epochs and steps are each counted once.

    `uniform_bits`: what a second of audio's codes costs where nothing is known of them.
    """

    kind: str
    started: RunStarted | None
    epochs: tuple[VQEpochMetrics | PriorEpochMetrics, ...] = ()
    steps: tuple[VQStepMetrics | PriorStepMetrics, ...] = ()
    complete: TrainingCompleteEvent | PriorTrainingCompleteEvent | None = None
    warnings: tuple[str, ...] = ()
    uniform_bits: float | None = None

    @property
    def histogram_bits(self) -> float | None:
        """What held-out codes cost by each level's own histogram, where that was measured."""
        done = self.complete
        return done.histogram_bits_per_second if isinstance(done, PriorTrainingCompleteEvent) else None


@dataclass(frozen=True, kw_only=True)
class SearchFacts:
    """A search: its trials, and the ranking's rows in their order."""

    trials: tuple[TrialUpdate, ...]
    candidates: tuple[CandidateRow, ...]
    objective: str
    definition: str
    prior_bits: dict[str, float]
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """All that a report shows. Empty parts are left out of the page."""

    title: str
    kind: str
    overview: tuple[Fact, ...]
    warnings: tuple[str, ...] = ()
    runs: tuple[TrainingRun, ...] = ()
    health: tuple[LevelHealth, ...] = ()
    agreement: CodeAgreement | None = None
    excerpts: tuple[SoundGroup, ...] = ()
    generated: tuple[SoundGroup, ...] = ()
    judged: Judged | None = None
    search: SearchFacts | None = None
    settings: tuple[Setting, ...] = ()
    provenance: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    """What is missing from the page, and how to get it there."""

    @property
    def is_held_out(self) -> bool:
        """Whether recordings were held out; so it is where nobody has said otherwise."""
        return all(run.started is None or run.started.val_files > 0 for run in self.runs)
