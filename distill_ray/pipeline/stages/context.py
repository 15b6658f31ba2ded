"""What the stages share, and what a stage is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill_ray.config.corpus import VAL_FRACTION
from distill_ray.config.pipeline import PipelineConfig
from distill_ray.events.records import PlannedStage
from distill_ray.jsonable import jsonable
from distill_ray.pipeline.budget import TimeBudget
from distill_ray.pipeline.record import PipelineRecord
from distill_ray.pipeline.slowness import Slowness
from distill_ray.runs.workspace import ResultFolder
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.training.worker import Listener
from distill_ray.tune.settings import TrialListener

if TYPE_CHECKING:
    from distill_ray.bundle import Manifest
    from distill_ray.corpus import Corpus

GENERATE = "generate."


@dataclass(kw_only=True)
class PipelineContext:
    """What the stages share. `corpus` and `budget` are known once `prepare` was skipped or has run;
    `reports` by stage.
    """

    results: ResultFolder
    record: PipelineRecord
    plan: WorkerPlan
    address: str | None
    listener: Listener
    trial_listener: TrialListener
    corpus: Corpus | None = None
    budget: TimeBudget | None = None
    began: float = 0.0
    slowness: Slowness = field(default_factory=Slowness)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: tuple[Path, ...] = ()

    def settings(self) -> dict[str, object]:
        """Those of the trainings, which get a corpus that has its split."""
        return {
            key: value
            for key, value in self.record.settings.items()
            if not key.startswith((GENERATE, f"{PipelineConfig.table}.")) and key != VAL_FRACTION
        }

    def shortened(self, key: str, seconds: float) -> float:
        """Minutes of a stage that gets `seconds` of the whole, or fewer where the setting `key` says so."""
        given = self.record.settings.get(key)
        minutes = max(0.001, round(seconds / 60.0, 3))  # as people read it in a table of settings
        return min(minutes, given) if isinstance(given, int | float) else minutes

    def report(self, stage: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Take in what a stage has to report; returns it in the form that its record keeps."""
        report: dict[str, Any] = self._outward(jsonable(document))
        self.reports[stage] = report
        return report

    def shown(self, path: Path) -> Path | str:
        """What messages call `path`, which is in the run's folder."""
        return self.results.shown_as(path)

    def _outward(self, value: Any) -> Any:
        """Paths in the workshop of a URI become what they are for others."""
        if isinstance(value, dict):
            return {key: self._outward(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._outward(item) for item in value]
        if isinstance(value, str) and value.startswith(f"{self.results.path}/"):
            return str(self.shown(Path(value)))
        return value

    def corpus_uri(self) -> str:
        assert self.corpus is not None, "prepare comes first"
        return self.corpus.uri


class Stage(Protocol):
    """One stage. `decide` gets the last earlier stage that will run, and changes nothing on disk."""

    @property
    def name(self) -> str: ...

    def decide(self, after: str | None) -> PlannedStage: ...

    def skip(self) -> None:
        """Take over what is there."""

    def run(self) -> int:
        """Do the work and keep a record of it; the exit code, which ends the pipeline where it is not 0."""


def skipped(stage: str, reason: str) -> PlannedStage:
    return PlannedStage(stage=stage, skipped=True, reason=reason)


def will_run(stage: str, reason: str) -> PlannedStage:
    return PlannedStage(stage=stage, skipped=False, reason=reason)


def manifest(path: Path) -> Manifest:
    from distill_ray.bundle import read_manifest

    return read_manifest(path)
