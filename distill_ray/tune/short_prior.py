"""A short prior on the codes of a trial's codec, in TRIAL/prior/: an ordinary run, which can be trained on.

For objective "prior-bits" the search's driver trains them on the finalists (`tune.py`), for "generation" each
trial trains its own (`rating.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distill_ray.config.prior import PriorTrainConfig, PriorTrainingConfig
from distill_ray.config.resolve import MachineFacts, has_budget, resolve_prior
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import open_corpus
from distill_ray.errors import TrainingError
from distill_ray.events.records import (
    Event,
    PriorEpochMetrics,
    PriorTrainingCompleteEvent,
    StageProgress,
)
from distill_ray.runs.export import corpus_codes, export_prior
from distill_ray.runs.run_folder import RunFolder, Start
from distill_ray.runtime.launch import train_here
from distill_ray.storage.uploaded import newest_checkpoint
from distill_ray.training.worker import Listener, StopFlag

if TYPE_CHECKING:
    from distill_ray.prior import CodeStore

PRIOR = "prior"
"""The folder of a trial that it is kept in."""
_BUDGET = tuple(f"{PriorTrainingConfig.table}.{name}" for name in ("epochs", "max_minutes"))
_SHARE = 4  # a short prior has one part in so many of a prior's automatic budget


@dataclass(frozen=True, kw_only=True)
class ShortPrior:
    """A short prior after its training; `config` is what it was trained with, `codes` are its codec's."""

    config: PriorTrainConfig
    completed: PriorTrainingCompleteEvent
    codes: CodeStore


@dataclass(frozen=True, kw_only=True)
class PriorTrainer:
    """Trains short priors on the codes of trials; interrupted, they go on where they were.

    corpus: its URI; record: what models say of it; settings: those of the search, of which it takes the
    prior's.
    """

    corpus: str
    record: Mapping[str, Any]
    settings: Mapping[str, object]
    accelerator: bool

    def train(
        self,
        model: Path,
        run: RunFolder,
        config: VQTrainConfig,
        *,
        listener: Listener,
        stop: StopFlag,
        minutes: float | None = None,
    ) -> ShortPrior | None:
        """The prior of the codec in file `model`, of the trial in `run`; it joins the file. None once
        stopped. `minutes`: how long it trains; else as the settings say, or for a part of the automatic
        budget.

        Raises what `train_prior` does.
        """
        from distill_ray.bundle import load_model_v2
        from distill_ray.training.prior import train_prior
        from distill_ray.training.retokenise import Recordings

        corpus = open_corpus(self.corpus)
        loaded, folder = load_model_v2(model), run.below(PRIOR)
        store = corpus_codes(loaded, corpus, self.accelerator, on_progress=_progress("encode", listener))
        prior = self._config(config, store.frames("train"), corpus.recordings, minutes)
        self._record(folder, prior, {"corpus": corpus.digest, "codec": loaded.codec_sha256})
        final = train_here(
            functools.partial(
                train_prior,
                str(store.folder),
                prior,
                frame_rate=config.model.frame_rate,
                vectors_QKL=loaded.model.quantizer.vectors(),
                recordings=Recordings(corpus=self.corpus, codec=loaded.model.cpu()),
                name=f"prior of {run.path.name}",
                output_dir=str(folder.path),
            ),
            folder.checkpoints,
            folder.checkpoints_uri,
            device=None if self.accelerator else torch.device("cpu"),
            listener=listener,
            stop=stop,
        )
        assert isinstance(final, PriorTrainingCompleteEvent), final
        if final.exit_reason == "cancelled":
            return None
        join_prior(folder, model, prior, final, self.record, codec_sha256=loaded.codec_sha256)
        return ShortPrior(config=prior, completed=final, codes=store)

    def _config(
        self, codec: VQTrainConfig, train_frames: int, recordings: int, minutes: float | None
    ) -> PriorTrainConfig:
        settings = dict(self.settings)
        if minutes is not None:
            settings = {key: value for key, value in settings.items() if key not in _BUDGET}
            settings[f"{PriorTrainingConfig.table}.max_minutes"] = minutes
        config = resolve_prior(
            codec.model,
            file_count=recordings,
            train_frames=train_frames,
            overrides=settings,
            machine=MachineFacts(accelerator=self.accelerator),
        ).config
        training = config.training
        if training.epochs is None or has_budget(settings, training.table):
            return config
        return replace(config, training=replace(training, epochs=math.ceil(training.epochs / _SHARE)))

    def _record(self, folder: RunFolder, config: PriorTrainConfig, identity: Mapping[str, str]) -> None:
        """Make it a run that `train-prior --resume` takes over: with a budget of its own, so without this
        one.
        """
        from distill_ray.config.resolve import dotted

        if not folder.is_begun:
            Start(folder=folder, settings={}, overrides=frozenset()).record(
                {key: value for key, value in dotted(config).items() if key not in _BUDGET},
                identity,
                overrides=frozenset(),
                corpus={},
            )


def join_prior(
    folder: RunFolder,
    model: Path,
    config: PriorTrainConfig,
    completed: PriorTrainingCompleteEvent,
    record: Mapping[str, Any],
    *,
    codec_sha256: str,
) -> None:
    """Put the best weights of the prior in `folder` into `model`; TrainingError where there are none."""
    checkpoint = newest_checkpoint(folder.checkpoints, folder.checkpoints_uri)
    if checkpoint is None:
        raise TrainingError(f"the short prior in {folder.path} has lost its checkpoint; resume the search")
    export_prior(checkpoint, model, config, completed, dict(record), codec_sha256=codec_sha256)


def _progress(stage: str, listener: Listener) -> Callable[[int, int, str], None]:
    return lambda done, total, note: listener(StageProgress(stage=stage, done=done, total=total, note=note))


class StageListener:
    """A prior's events for its own logs, and its epochs as the progress of a stage of the search."""

    def __init__(self, name: str, listener: Listener, logs: Listener | None) -> None:
        self._name = name
        self._listener = listener
        self._logs = logs

    def __call__(self, event: Event) -> None:
        if self._logs is not None:
            self._logs(event)
        if isinstance(event, StageProgress):
            self._listener(event)
        if isinstance(event, PriorEpochMetrics):
            total = event.epochs or 0
            self._listener(StageProgress(stage="prior", done=event.epoch, total=total, note=self._name))
