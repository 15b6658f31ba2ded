"""What a search came to: the document of `tune --json` and leaderboard.json, and what the manifest says."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_ray.config.health import HealthConfig
from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import CandidateRow
from distill_ray.tune.ranking import winner
from distill_ray.tune.space import LogUniform, search_space
from distill_ray.tune.trial import TrialRecord

_EXIT_CODES = {"completed": 0, "failed": 1, "cancelled": 3, "health": 4}


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """A search as it ended. `model_path`: the winner's file, None where there is none.

    `exit_reason`: "completed", "cancelled", "health" (no healthy candidate within the rate) or "failed"
    (every trial failed). `gpu_seconds`: seconds of trials × their GPUs, over all parts of a resumed search;
    `elapsed_s`: wall seconds of its last part.
    """

    output_dir: Path | str
    model_path: Path | str | None
    sweep: SweepConfig
    objective_definition: str
    records: tuple[TrialRecord, ...]
    candidates: tuple[CandidateRow, ...]
    advice: str
    elapsed_s: float
    exit_reason: str
    report_path: Path | str | None = None

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self.exit_reason]

    @property
    def gpu_seconds(self) -> float:
        return sum(record.gpu_seconds for record in self.records)

    def to_json(self) -> dict[str, Any]:
        return {
            "best": self._best(),
            "trials": [_trial(record) for record in self.records],
            "pareto": [asdict(row) for row in self.candidates if row.on_front],
            "candidates": [asdict(row) for row in self.candidates],
            "objective": self.sweep.objective,
            "objective_definition": self.objective_definition,
            "plan": self.sweep.plan,
            "search": self.sweep.search,
            "max_kbps": self.sweep.max_kbps,
            "gpu_seconds": self.gpu_seconds,
            "elapsed_s": self.elapsed_s,
            "output_dir": str(self.output_dir),
            "advice": self.advice,
            "exit_reason": self.exit_reason,
            "report_path": None if self.report_path is None else str(self.report_path),
        }

    def _best(self) -> dict[str, Any] | None:
        row = winner(self.candidates)
        if row is None or self.model_path is None:
            return None
        return {
            "trial": row.trial,
            "codebook_size": row.codebook_size,
            "rvq_levels": row.rvq_levels,
            "kbps": row.kbps,
            "objective": row.objective,
            "val_loss": row.val_loss,
            "mel": row.mel,
            "model_path": str(self.model_path),
        }


def provenance(
    report: SweepReport, health: HealthConfig, *, seed: int, chosen: CandidateRow
) -> dict[str, Any]:
    """What the manifest of the winner says of the search."""
    sweep = report.sweep
    return {
        "trial": chosen.trial,
        "plan": sweep.plan,
        "search": sweep.search,
        "scheduler": sweep.scheduler,
        "space": {key: _axis(axis) for key, axis in search_space(sweep).items()},
        "rvq_levels": sweep.rvq_levels,
        "max_kbps": sweep.max_kbps,
        "finalists": sweep.finalists,
        "objective": sweep.objective,
        "objective_definition": report.objective_definition,
        "health": asdict(health),
        "seed": seed,
        "trials": [_trial(record) for record in report.records],
        "ranking": [asdict(row) for row in report.candidates],
        "gpu_seconds": report.gpu_seconds,
        "versions": {name: importlib.metadata.version(name) for name in ("ray", "torch")},
    }


def _axis(axis: Any) -> dict[str, Any]:
    if isinstance(axis, LogUniform):
        return {"low": axis.low, "high": axis.high, "scale": "log"}
    return {"values": list(axis.values)}


def _trial(record: TrialRecord) -> dict[str, Any]:
    spec = record.spec
    return {
        "id": spec.id,
        "round": spec.round,
        "codebook_size": spec.codebook_size,
        "rvq_levels": spec.rvq_levels,
        "kbps": record.kbps,
        "state": record.state,
        "stop_reason": record.reason,
        "epochs": record.epochs,
        "steps": record.steps,
        "val_loss": record.val_loss,
        "mel": record.mel,
        "prior_bits_per_second": record.prior_bits_per_second,
        "worst_utilization": record.worst_utilization,
        "worst_level": record.worst_level,
        "gpu_seconds": record.gpu_seconds,
        "elapsed_s": record.elapsed_s,
        "attempts": record.attempts,
        "overrides": dict(spec.overrides),
    }
