"""What the two trainings of `pipeline/train.py` came to, and the JSON documents of their commands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.events.records import PriorTrainingCompleteEvent, TrainingCompleteEvent

_EXIT_CODES = {"completed": 0, "early_stop": 0, "cancelled": 3, "health": 4}


@dataclass(frozen=True, kw_only=True)
class CodecReport:
    """A finished codec run. `model_path` holds the best epoch's weights; both are URIs where they were asked
    for as such.
    """

    output_dir: Path | str
    model_path: Path | str
    model_name: str
    config: VQTrainConfig
    codebook_size_source: str
    completed: TrainingCompleteEvent
    report_path: Path | str | None = None

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self.completed.exit_reason]

    def to_json(self) -> dict[str, Any]:
        done, model = self.completed, self.config.model
        return {
            "output_dir": str(self.output_dir),
            "model_path": str(self.model_path),
            "model_name": self.model_name,
            "epochs_completed": done.epochs_completed,
            "final_train_loss": done.final_train_loss,
            "final_val_loss": done.final_val_loss,
            "best_val_loss": done.best_val_loss,
            "best_epoch": done.best_epoch,
            "codebook_size": model.codebook_size,
            "codebook_size_source": self.codebook_size_source,
            "rvq_levels": model.num_quantizers,
            "commitment_weight": model.commitment_weight,
            "codebook_health": {
                f"level_{level}": asdict(health) for level, health in enumerate(done.codebook_health)
            },
            "codes": None if done.code_agreement is None else asdict(done.code_agreement),
            "warnings": list(done.warnings),
            "audio_seconds_per_second": done.audio_seconds_per_second,
            "elapsed_s": done.elapsed_s,
            "exit_reason": done.exit_reason,
            "collapse": done.collapse.reason if done.collapse is not None else "",
            "report_path": None if self.report_path is None else str(self.report_path),
        }


@dataclass(frozen=True, kw_only=True)
class PriorReport:
    """A finished prior run, whose best weights are in `model_path`, a path or URI."""

    model_path: Path | str
    dataset: str
    config: PriorTrainConfig
    completed: PriorTrainingCompleteEvent
    report_path: Path | str | None = None

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self.completed.exit_reason]

    def to_json(self) -> dict[str, Any]:
        done, model = self.completed, self.config.model
        return {
            "model_path": str(self.model_path),
            "dataset": self.dataset,
            "epochs_trained": done.epochs_trained,
            "final_perplexity": done.final_perplexity,
            "best_perplexity": done.best_perplexity,
            "bits_per_second": done.bits_per_second,
            "histogram_bits_per_second": done.histogram_bits_per_second,
            "below_histogram": done.below_histogram,
            "hidden_size": model.hidden_size,
            "num_layers": model.num_layers,
            "num_heads": model.num_heads,
            "learning_rate": self.config.training.lr,
            "memorization_warnings": list(done.memorization_warnings),
            "memorization": done.memorization,
            "kept_epoch": done.kept_epoch,
            "temperatures": list(done.temperatures),
            "code_distance": done.code_distance,
            "held_out_code_distance": done.held_out_code_distance,
            "elapsed_s": done.elapsed_s,
            "exit_reason": done.exit_reason,
            "report_path": None if self.report_path is None else str(self.report_path),
        }
