"""The main job's two trainings from end to end: data and settings in, a `.distill` file out.

`cli/train.py` and `cli/train_prior.py` call these; `launch.py` runs the loops of `training/`; `bundle/`
writes the file. Nothing here knows whether Ray is used.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.resolve import (
    CorpusFacts,
    Resolved,
    build_section,
    dotted,
    resolve_prior,
    resolve_vqvae,
)
from distill_ray.config.toml import read_toml
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import TrainingError, UsageError
from distill_ray.orchestrate.export import corpus_codes, corpus_record, export_codec, export_prior
from distill_ray.orchestrate.launch import launch
from distill_ray.orchestrate.plan import ResolvedPlan, WorkerPlan, check_resources, resolve_plan
from distill_ray.orchestrate.run_folder import new_prior_run, new_run, resumed_run, without_run
from distill_ray.orchestrate.session import ray_session
from distill_ray.training.events import (
    Notice,
    PriorTrainingCompleteEvent,
    ShownSetting,
    StageProgress,
    TrainingCompleteEvent,
)
from distill_ray.training.worker import Listener

if TYPE_CHECKING:
    from distill_ray.corpus import Corpus

CompletedT = TypeVar("CompletedT", TrainingCompleteEvent, PriorTrainingCompleteEvent)

_EXIT_CODES = {"completed": 0, "early_stop": 0, "cancelled": 3, "health": 4}
_SOME_CORPUS = CorpusFacts(file_count=1, train_seconds=1.0, sample_rate=None, channels=None)
_VQ_SHOWN = (
    "model.codebook_size",
    "model.num_quantizers",
    "model.commitment_weight",
    "model.width",
    "training.epochs",
    "training.max_minutes",
    "training.batch_size",
    "training.lr",
    "training.seed",
)
_PRIOR_SHOWN = (
    "prior.pattern",
    "prior.hidden_size",
    "prior.num_layers",
    "prior.num_heads",
    "prior.dropout",
    "prior.context_frames",
    "prior_training.epochs",
    "prior_training.max_minutes",
    "prior_training.batch_size",
    "prior_training.lr",
    "prior_training.seed",
)


@dataclass(frozen=True, kw_only=True)
class CodecReport:
    """A finished codec run. `model_path` holds the best epoch's weights."""

    output_dir: Path
    model_path: Path
    model_name: str
    config: VQTrainConfig
    codebook_size_source: str
    completed: TrainingCompleteEvent

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
            "warnings": list(done.warnings),
            "audio_seconds_per_second": done.audio_seconds_per_second,
            "elapsed_s": done.elapsed_s,
            "exit_reason": done.exit_reason,
        }


@dataclass(frozen=True, kw_only=True)
class PriorReport:
    """A finished prior run, whose best weights are in `model_path`."""

    model_path: Path
    dataset: str
    config: PriorTrainConfig
    completed: PriorTrainingCompleteEvent

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self.completed.exit_reason]

    def to_json(self) -> dict[str, Any]:
        done, model = self.completed, self.config.model
            "collapse": done.collapse,
        return {
            "model_path": str(self.model_path),
            "dataset": self.dataset,
            "epochs_trained": done.epochs_trained,
            "final_perplexity": done.final_perplexity,
            "best_perplexity": done.best_perplexity,
            "bits_per_second": done.bits_per_second,
            "hidden_size": model.hidden_size,
            "num_layers": model.num_layers,
            "num_heads": model.num_heads,
            "learning_rate": self.config.training.lr,
            "memorization_warnings": list(done.memorization_warnings),
            "elapsed_s": done.elapsed_s,
            "exit_reason": done.exit_reason,
        }


def train_codec(
    *,
    data: str,
    overrides: Mapping[str, object],
    config_file: Path | None,
    size: str | None,
    out: Path | None,
    name: str | None,
    resume: Path | None,
    plan: WorkerPlan,
    listener: Listener,
) -> CodecReport:
    """Train a codec on `data` (a prepared corpus or a folder of audio) and write `OUT/NAME.distill`.

    `overrides` are settings by dotted TOML key and win over `config_file`. `resume` is the folder of an
    interrupted run, which keeps its settings; only its budget may change.

    Raises UsageError and its kin for what cannot be used, TrainingError and ClusterError for what failed.
    """
    from distill_ray.corpus import ensure_corpus
    from distill_ray.training.vqvae import train_vqvae

    given = {**_file_settings(config_file), **overrides}
    if resume is None:
        start = new_run(out, name or "distill", given)
    else:
        _refuse_with_resume(out=out, name=name, size=size)
        start = resumed_run(resume, given, table="training")
    size = start.identity.get("size", size)
    with _settled(plan) as ready:
        resolve = functools.partial(
            resolve_vqvae,
            overrides=start.settings,
            size=size,
            accelerator=_accelerator(ready),
            workers=ready.num_workers or 1,
            fewest_workers=ready.min_workers,
        )
        resolve(_SOME_CORPUS)  # says what is wrong with the settings before an hour of decoding
        said = _said_of_corpus(start.settings)
        corpus = ensure_corpus(
            data,
            build_section(CorpusConfig, said),
            required=said,
            on_progress=_stage(listener, "prepare"),
        )
        start.check({"corpus": corpus.digest})
        resolved = start.sourced(resolve(_facts(corpus)))
        name = start.identity.get("name", name or "distill")
        start.record(resolved, {"name": name, "size": resolved.size, "corpus": corpus.digest}, corpus=said)
        loop = functools.partial(
            train_vqvae,
            corpus.uri,
            resolved.config,
            name=name,
            output_dir=str(start.folder.path),
            settings=(
                ShownSetting(name="size", value=resolved.size, source=resolved.source("model.size")),
                *_shown(resolved, _VQ_SHOWN),
            ),
        )
        result = launch(
            loop,
            run_dir=start.folder.path,
            plan=replace(plan, num_workers=ready.num_workers),
            listener=listener,
        )
    completed = _ended(result.final, TrainingCompleteEvent)
    model_path = start.folder.path / f"{name}.distill"
    export_codec(
        _kept(result.checkpoint), model_path, resolved.config, completed, corpus_record(corpus, data)
    )
    return CodecReport(
        output_dir=start.folder.path,
        model_path=model_path,
        model_name=name,
        config=resolved.config,
        codebook_size_source=resolved.source("model.codebook_size"),
        completed=completed,
    )


def train_code_prior(
    *,
    model: Path,
    data: str,
    overrides: Mapping[str, object],
    config_file: Path | None,
    plan: WorkerPlan,
    listener: Listener,
    resume: bool = False,
) -> PriorReport:
    """Train a prior on the codes that `model` gives `data`, and put it into the same file.

    The run is kept in `MODEL.prior/` beside the model; `resume` goes on with an interrupted one.

    Raises UsageError and its kin for what cannot be used, TrainingError and ClusterError for what failed.
    """
    from distill_ray.bundle import load_model_v2
    from distill_ray.corpus import ensure_corpus
    from distill_ray.training.prior import train_prior

    given = {**_file_settings(config_file), **overrides}
    folder = model.resolve().with_suffix(".prior")
    start = resumed_run(folder, given, table="prior_training") if resume else new_prior_run(folder, given)
    loaded = load_model_v2(model)
    codec, codec_hash = loaded.vqvae_config, loaded.codec_sha256
    with _settled(plan) as ready:
        said = _said_of_corpus(start.settings)
        wanted = build_section(
            CorpusConfig, {**said, "sample_rate": codec.sample_rate, "channels": codec.channels}
        )
        resolve = functools.partial(
            resolve_prior,
            codec,
            overrides=start.settings,
            accelerator=_accelerator(ready),
            workers=ready.num_workers or 1,
            fewest_workers=ready.min_workers,
        )
        resolve(file_count=1, train_frames=1)  # as above: wrong settings are said before hours of encoding
        corpus = ensure_corpus(data, wanted, on_progress=_stage(listener, "prepare"))
        start.check({"corpus": corpus.digest, "codec": codec_hash})
        store = corpus_codes(loaded, corpus, _accelerator(ready), on_progress=_stage(listener, "encode"))
        for notice in store.notices:
            listener(Notice(level="warning", message=notice))
        resolved = start.sourced(
            resolve(file_count=len(corpus.manifest.files), train_frames=store.frames("train"))
        )
        start.record(resolved, {"corpus": corpus.digest, "codec": codec_hash}, corpus=said)
        loop = functools.partial(
            train_prior,
            str(store.folder),
            resolved.config,
            frame_rate=codec.frame_rate,
            codebooks_QKD=loaded.model.quantizer.codebooks_QKD.detach(),
            name=model.stem,
            output_dir=str(folder),
            settings=_shown(resolved, _PRIOR_SHOWN),
        )
        result = launch(
            loop, run_dir=folder, plan=replace(plan, num_workers=ready.num_workers), listener=listener
        )
    completed = _ended(result.final, PriorTrainingCompleteEvent)
    if completed.exit_reason == "cancelled" and loaded.prior is not None:
        # Half a training must not take the place of a whole one.
        listener(Notice(level="info", message=f"the prior that {model} has is kept; --resume goes on"))
    else:
        export_prior(
            _kept(result.checkpoint),
            model,
            resolved.config,
            completed,
            corpus_record(corpus, data),
            codec_sha256=codec_hash,
        )
    return PriorReport(model_path=model.resolve(), dataset=data, config=resolved.config, completed=completed)


@contextlib.contextmanager
def _settled(plan: WorkerPlan) -> Iterator[ResolvedPlan]:
    """The plan with its number of workers; a cluster is asked for it, and stays connected meanwhile."""
    resolved = resolve_plan(plan)
    if resolved.address is None:
        yield resolved
        return
    with ray_session(resolved) as session:
        yield check_resources(resolved, session.resources, session.limits)


def _accelerator(plan: ResolvedPlan) -> bool:
    if plan.use_gpu is not None:
        return plan.use_gpu
    import torch

    return torch.cuda.is_available()


def _file_settings(config_file: Path | None) -> dict[str, object]:
    return without_run(read_toml(config_file)) if config_file is not None else {}


def _said_of_corpus(given: Mapping[str, object]) -> dict[str, object]:
    """How a folder of audio is to be prepared, as far as the user said."""
    return {key.partition(".")[2]: value for key, value in given.items() if key.startswith("corpus.")}


def _facts(corpus: Corpus) -> CorpusFacts:
    return CorpusFacts(
        file_count=len(corpus.manifest.files),
        train_seconds=corpus.seconds("train"),
        sample_rate=corpus.sample_rate,
        channels=corpus.channels,
    )


def _stage(listener: Listener, stage: str) -> Callable[[int, int, str], None]:
    return lambda done, total, note: listener(StageProgress(stage=stage, done=done, total=total, note=note))


def _shown(
    resolved: Resolved[VQTrainConfig] | Resolved[PriorTrainConfig], keys: tuple[str, ...]
) -> tuple[ShownSetting, ...]:
    values = dotted(resolved.config)
    return tuple(
        ShownSetting(name=key.partition(".")[2], value=str(values[key]), source=resolved.source(key))
        for key in keys
        if values[key] is not None
    )


def _refuse_with_resume(**given: object) -> None:
    wrong = [f"--{key}" for key, value in given.items() if value is not None]
    if wrong:
        raise UsageError(f"--resume goes on with a run as it was begun; leave out {' and '.join(wrong)}")


def _ended(final: object, kind: type[CompletedT]) -> CompletedT:
    assert isinstance(final, kind), final
    return final


def _kept(checkpoint: Path | None) -> Path:
    if checkpoint is None:
        raise TrainingError("the run ended without a checkpoint, so there is nothing to save; run it again")
    return checkpoint
