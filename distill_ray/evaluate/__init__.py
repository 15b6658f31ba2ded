"""How well a codec reconstructs (distances, bit rates, codebook health at every depth), and how near
generated sound is to the training audio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.evaluate.evaluate import evaluate_model
    from distill_ray.evaluate.judgement import (
        CodeMeasures,
        Copies,
        Floors,
        GroupScore,
        Interval,
        Judgement,
        Levels,
        Measures,
        NearestMoment,
    )
    from distill_ray.evaluate.measures import SiSdr, SpectralMeasure, mel_distance, si_sdr, stft_distance
    from distill_ray.evaluate.reference import Reference, judge
    from distill_ray.evaluate.report import DepthScores, EvaluationReport, FileScores, Scores
    from distill_ray.evaluate.sound import Sound

_WHERE = {
    "distill_ray.evaluate.evaluate": ("evaluate_model",),
    "distill_ray.evaluate.reference": ("Reference", "judge"),
    "distill_ray.evaluate.sound": ("Sound",),
    "distill_ray.evaluate.judgement": (
        "CodeMeasures",
        "Copies",
        "Floors",
        "GroupScore",
        "Interval",
        "Judgement",
        "Levels",
        "Measures",
        "NearestMoment",
    ),
    "distill_ray.evaluate.measures": ("SiSdr", "SpectralMeasure", "mel_distance", "si_sdr", "stft_distance"),
    "distill_ray.evaluate.report": ("DepthScores", "EvaluationReport", "FileScores", "Scores"),
}

__all__ = [
    "CodeMeasures",
    "Copies",
    "DepthScores",
    "EvaluationReport",
    "FileScores",
    "Floors",
    "GroupScore",
    "Interval",
    "Judgement",
    "Levels",
    "Measures",
    "NearestMoment",
    "Reference",
    "Scores",
    "SiSdr",
    "Sound",
    "SpectralMeasure",
    "evaluate_model",
    "judge",
    "mel_distance",
    "si_sdr",
    "stft_distance",
]

__getattr__ = lazy_exports(__name__, {name: module for module, names in _WHERE.items() for name in names})
