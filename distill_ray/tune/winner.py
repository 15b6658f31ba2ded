"""What comes after a search's trials: short priors for objective prior-bits, the winner's `.distill` file."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.resolve import MachineFacts, resolve_prior
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import TrainingError
from distill_ray.events.records import (
    Event,
    PriorEpochMetrics,
    PriorTrainingCompleteEvent,
    StageProgress,
    TrainingCompleteEvent,
)
from distill_ray.runs.export import corpus_codes, export_codec
from distill_ray.runs.run_folder import RunFolder
from distill_ray.runtime.launch import launch
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.storage.uploaded import newest_checkpoint
from distill_ray.training.worker import Listener
from distill_ray.tune.settings import TrialListener
from distill_ray.tune.trial import TrialRecord

if TYPE_CHECKING:
    from distill_ray.corpus import Corpus

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


@dataclass(frozen=True, kw_only=True)
class ShortPrior:
    """Trains a short prior on the codes of a trial, in TRIAL/prior/; interrupted, it goes on from there."""

    corpus: Corpus
    record: Mapping[str, Any]
    settings: Mapping[str, object]
    accelerator: bool
    listener: Listener
    trial_listener: TrialListener | None

    def bits_per_second(self, trial: TrialRecord, run: RunFolder, config: VQTrainConfig) -> float | None:
        """The held-out cost of a second of audio's codes; None where Ctrl-C came first."""
        from distill_ray.bundle import load_model_v2
        from distill_ray.training.prior import train_prior
        from distill_ray.training.retokenise import Recordings

        name, folder = f"prior of {trial.spec.id}", run.below("prior")
        model = run.path / f"{trial.spec.id}.distill"
        export_trial(trial, run, model, config, self.record)
        loaded = load_model_v2(model)
        store = corpus_codes(loaded, self.corpus, self.accelerator, on_progress=self._progress("encode"))
        prior = self._config(config, store.frames("train"))
        loop = functools.partial(
            train_prior,
            str(store.folder),
            prior,
            frame_rate=config.model.frame_rate,
            codebooks_QKD=loaded.model.quantizer.codebooks_QKD.detach(),
            recordings=Recordings(corpus=self.corpus.uri, codec=loaded.model.cpu()),
            name=name,
            output_dir=str(folder.path),
        )
        with self._logs() as logs:
            result = launch(
                loop,
                run_dir=folder.path,
                plan=WorkerPlan(num_workers=0, gpus_per_worker=None if self.accelerator else 0),
                listener=_ShortPriorListener(name, self.listener, logs),
                checkpoints_uri=folder.checkpoints_uri,
            )
        done = result.final
        assert isinstance(done, PriorTrainingCompleteEvent), done
        return None if done.exit_reason == "cancelled" else done.bits_per_second

    def _config(self, codec: VQTrainConfig, train_frames: int) -> PriorTrainConfig:
        resolved = resolve_prior(
            codec.model,
            file_count=self.corpus.recordings,
            train_frames=train_frames,
            overrides=self.settings,
            machine=MachineFacts(accelerator=self.accelerator),
        )
        training, budget = resolved.config.training, ("prior_training.epochs", "prior_training.max_minutes")
        if training.epochs is not None and not any(key in self.settings for key in budget):
            training = replace(training, epochs=math.ceil(training.epochs / _SHARE))
        return replace(resolved.config, training=training)

    def _progress(self, stage: str) -> Any:
        return lambda done, total, note: self.listener(
            StageProgress(stage=stage, done=done, total=total, note=note)
        )

    def _logs(self) -> Any:
        return contextlib.nullcontext(None) if self.trial_listener is None else self.trial_listener()


class _ShortPriorListener:
    """A prior's events for its own logs, and its epochs as the progress of a stage of the search."""

    def __init__(self, name: str, listener: Listener, logs: Listener | None) -> None:
        self._name = name
        self._listener = listener
        self._logs = logs

    def __call__(self, event: Event) -> None:
        if self._logs is not None:
            self._logs(event)
        if isinstance(event, PriorEpochMetrics):
            total = event.epochs or 0
            self._listener(StageProgress(stage="prior", done=event.epoch, total=total, note=self._name))
