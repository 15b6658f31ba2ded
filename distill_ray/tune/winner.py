"""The winner's `.distill` file, and what `run` and `train-prior --resume` train on of its short prior."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import TrainingError
from distill_ray.events.records import (
    TrainingCompleteEvent,
)
from distill_ray.runs.export import export_codec
from distill_ray.runs.run_folder import RunFolder
from distill_ray.storage.uploaded import newest_checkpoint
from distill_ray.tune.short_prior import PRIOR
from distill_ray.tune.trial import TrialRecord

if TYPE_CHECKING:
    pass

_SHARE = 4  # a short prior has one part in so many of a prior's automatic budget


def export_trial(
    record: TrialRecord,
    run: RunFolder,
    path: Path,
    config: VQTrainConfig,
    corpus: Mapping[str, Any],
    *,
    sweep: Mapping[str, Any] | None = None,
) -> None:
    """Write the best weights of a finished trial as a `.distill` file, with the search's provenance."""
    checkpoint = newest_checkpoint(run.checkpoints, run.checkpoints_uri)
    if checkpoint is None:
        raise TrainingError(
            f"the checkpoint of trial {record.spec.id} is missing in {run.path}; "
            "remove its trial.json and resume the search to train it again"
        )
    export_codec(checkpoint, path, config, _completed(record, checkpoint), dict(corpus), sweep=sweep)


def _completed(record: TrialRecord, checkpoint: Path) -> TrainingCompleteEvent:
    """The end of a trial as its checkpoint has it: the process that heard the event may have been killed."""
    from distill_ray.training.checkpoint import guarded, read_json

    run, progress = read_json(checkpoint / "run.json"), read_json(checkpoint / "progress.json")
    return guarded(
        checkpoint / "progress.json",
        lambda: TrainingCompleteEvent(
            epochs_completed=progress["epoch"],
            steps=progress["step"],
            final_train_loss=_number(run["train_loss"]),
            final_val_loss=_number(run["val_loss"]),
            best_val_loss=_number(progress["best_loss"]),
            best_epoch=progress["best_epoch"],
            codebook_health=record.codebook_health,
            warnings=tuple(run["warnings"]),
            audio_seconds_per_second=math.nan,
            elapsed_s=progress["elapsed_s"],
            exit_reason=progress["ended"],
            depth_scores=record.depth_scores,
        ),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def join_short_prior(trial: RunFolder, path: Path) -> None:
    """Put the short prior of the winning trial, where it has one, into `path`, and its run beside it.

    `train-prior PATH --resume` goes on with that run, as `run` does.
    """
    from distill_ray.bundle import bundle_models, read_manifest

    model = trial.path / f"{trial.path.name}.distill"
    if not model.exists() or not read_manifest(model).has_prior:
        return
    bundle_models(path, model, path, overwrite=True)
    copy_prior_run(trial.below(PRIOR).path, path.with_suffix(".prior"))


def copy_prior_run(source: Path, target: Path) -> None:
    """The run of a prior, whole or not at all; a `target` that is there stays."""
    if target.exists():
        return
    with tempfile.TemporaryDirectory(prefix=".prior-", dir=target.parent) as folder:
        shutil.copytree(source, Path(folder) / "run", symlinks=True)
        (Path(folder) / "run").rename(target)
