"""How well a codec reconstructs: distances, bit rates and codebook health at every depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.evaluate.evaluate import evaluate_model
    from distill_ray.evaluate.measures import SiSdr, SpectralMeasure, mel_distance, si_sdr, stft_distance
    from distill_ray.evaluate.report import DepthScores, EvaluationReport, FileScores, Scores

_WHERE = {
    "distill_ray.evaluate.evaluate": ("evaluate_model",),
    "distill_ray.evaluate.measures": ("SiSdr", "SpectralMeasure", "mel_distance", "si_sdr", "stft_distance"),
    "distill_ray.evaluate.report": ("DepthScores", "EvaluationReport", "FileScores", "Scores"),
}

__all__ = [
    "DepthScores",
    "EvaluationReport",
    "FileScores",
    "Scores",
    "SiSdr",
    "SpectralMeasure",
    "evaluate_model",
    "mel_distance",
    "si_sdr",
    "stft_distance",
]

__getattr__ = lazy_exports(__name__, {name: module for module, names in _WHERE.items() for name in names})
