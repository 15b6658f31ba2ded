"""What `evaluate_model` finds, as records and as table cells; standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from distill_ray.evaluate.judgement import CodeMeasures, Judgement
from distill_ray.vqvae.health import LevelHealth

DEPTH_HEADER = ("levels", "kbps", "entropy-coded", "mel", "STFT", "SI-SDR dB")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Distances of reconstructions; mel and STFT lower is better, SI-SDR in dB higher is better."""

    mel_distance: float
    stft_distance: float
    si_sdr_db: float


@dataclass(frozen=True, kw_only=True)
class DepthScores:
    """Scores with the first `levels` RVQ levels only: the mean over files, as DAC averages.

    `kbps_nominal` stores every code in log2 K bits; `kbps_entropy` in the entropy of its level's use, which
    an ideal coder without context reaches.
    """

    levels: int
    kbps_nominal: float
    kbps_entropy: float
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class FileScores:
    """One file at full depth."""

    path: str
    seconds: float
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The result of `evaluate_model`; `health` counts the codes of all evaluated files."""

    model: str
    corpus_digest: str
    split: str
    """"train", "val" or "all": what was scored."""
    requested_split: str
    """What was asked for; differs where a corpus has no held-out files."""
    seconds: float
    sample_rate: int
    depths: tuple[DepthScores, ...]
    files: tuple[FileScores, ...]
    health: tuple[LevelHealth, ...]
    warnings: tuple[str, ...]
    elapsed_s: float
    generated: Judgement | None = None
    """Of `--generated`, as is the next: what the model or another tool made, against the training audio."""
    decoded: Judgement | None = None
    """The scored files as the codec reconstructs them, so that the codec and the prior are told apart."""
    codes: CodeMeasures | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `distill-ray evaluate --json`; what was not measured has no field."""
        measured = {"generated": self.generated, "decoded": self.decoded, "codes": self.codes}
        health = {f"level_{level}": dataclasses.asdict(item) for level, item in enumerate(self.health)}
        return {
            "model_path": self.model,
            "corpus_digest": self.corpus_digest,
            "split": self.split,
            "requested_split": self.requested_split,
            "files": len(self.files),
            "seconds": self.seconds,
            "sample_rate": self.sample_rate,
            "depths": [_flat(row) for row in self.depths],
            "codebook_health": health,
            "per_file": [_flat(row) for row in self.files],
            **{name: value.to_json() for name, value in measured.items() if value is not None},
            "warnings": list(self.warnings),
            "elapsed_s": self.elapsed_s,
        }

    def depth_rows(self) -> list[tuple[float, ...]]:
        """Rows of the table with `DEPTH_HEADER`."""
        return [
            (
                row.levels,
                row.kbps_nominal,
                row.kbps_entropy,
                row.scores.mel_distance,
                row.scores.stft_distance,
                row.scores.si_sdr_db,
            )
            for row in self.depths
        ]


def _flat(row: DepthScores | FileScores) -> dict[str, Any]:
    fields = dataclasses.asdict(row)
    scores = fields.pop("scores")
    return {**fields, **scores}
