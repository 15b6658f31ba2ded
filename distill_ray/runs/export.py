"""From a checkpoint to the `.distill` file, and from a `.distill` file and a corpus to codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_ray.config.cache import cache_root
from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.events.records import PriorTrainingCompleteEvent, TrainingCompleteEvent
from distill_ray.storage.checkpoints import remove_weights
from distill_ray.vqvae.health import LevelHealth

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.corpus import Corpus
    from distill_ray.prior import CodeStore
    from distill_ray.training.worker import Listener

_CHUNK_FRAMES = 1024  # 12 s of audio at 86 frames a second: bounds memory, and enough to fill a GPU
_HISTORY = ("epoch", "train_loss", "val_loss")


def corpus_record(corpus: Corpus, data: str) -> dict[str, Any]:
    """What a model's manifest says of the audio that it was trained on."""
    return {
        "source": data,
        "digest": corpus.digest,
        "files": corpus.recordings,
        "train_seconds": corpus.seconds("train"),
        "val_seconds": corpus.seconds("val"),
    }


def export_codec(
    checkpoint: Path,
    path: Path,
    config: VQTrainConfig,
    completed: TrainingCompleteEvent,
    corpus: dict[str, Any],
    *,
    sweep: Mapping[str, Any] | None = None,
    release: bool = False,
) -> None:
    """Write the weights to be used of a codec checkpoint as a `.distill` file at `path`.

    sweep: the search that the codec comes from, where it does. release: remove weights that were kept without
    a checkpoint before the file is written, which may need their room.
    """
    from distill_ray.bundle import save_model_v2
    from distill_ray.training.checkpoint import read_json, read_weights
    from distill_ray.vqvae import VQVAE

    model = VQVAE(config.model)
    model.load_state_dict(read_weights(checkpoint / "best.safetensors"))
    run = read_json(checkpoint / "run.json")
    if release:
        remove_weights(checkpoint.parent)
    save_model_v2(
        path,
        model,
        metadata={
            "corpus": corpus,
            "loss_history": _history(run),
            "provenance": _provenance(path.parent.name, config.training.seed),
            "training": {
                "steps": completed.steps,
                "best_epoch": completed.best_epoch,
                "best_val_loss": completed.best_val_loss,
                "exit_reason": completed.exit_reason,
            },
            **({} if completed.code_agreement is None else {"codes": completed.code_agreement}),
            **({} if sweep is None else {"sweep": sweep}),
        },
        codebook_health=_health_of_best(run, completed),
    )


def export_prior(
    checkpoint: Path,
    path: Path,
    config: PriorTrainConfig,
    completed: PriorTrainingCompleteEvent,
    corpus: dict[str, Any],
    *,
    codec_sha256: str,
    release: bool = False,
) -> None:
    """Put the best weights of a prior checkpoint into the model at `path`.

    release: as in `export_codec`. Raises BundleError where the file's codec is not the one that gave the
    prior its codes.
    """
    from distill_ray.bundle import save_prior_to_model
    from distill_ray.bundle.format import CONTROLS, TEMPERATURES
    from distill_ray.prior import CodePrior
    from distill_ray.training.checkpoint import read_json, read_weights

    prior = CodePrior(config.model)
    prior.load_state_dict(read_weights(checkpoint / "best.safetensors"))
    run = read_json(checkpoint / "run.json")
    if release:
        remove_weights(checkpoint.parent)
    save_prior_to_model(
        path,
        prior,
        codec_sha256=codec_sha256,
        prior_metadata={
            "corpus": corpus,
            "loss_history": _history(run),
            "provenance": _provenance(path.stem, config.training.seed),
            "best_perplexity": completed.best_perplexity,
            "bits_per_second": completed.bits_per_second,
            "histogram_bits_per_second": completed.histogram_bits_per_second,
            "below_histogram": completed.below_histogram,
            "memorization_warnings": list(completed.memorization_warnings),
            "memorization": completed.memorization,
            "kept_epoch": completed.kept_epoch,
            TEMPERATURES: [{"temperature": value} for value in completed.temperatures],
            CONTROLS: run.get("controls"),
        },
    )


def corpus_codes(
    loaded: LoadedVQModel,
    corpus: Corpus,
    accelerator: bool,
    *,
    on_progress: Callable[[int, int, str], None],
    cache: Path | None = None,
    on_cluster: Listener | None = None,
) -> CodeStore:
    """The codes of every file of the corpus, from the cache (default: `code_cache()`) where they are known.

    on_cluster: encode on all nodes of the cluster that this process is connected to; told what keeps it from
    that.
    """
    import torch

    from distill_ray.prior import extract_code_sequences
    from distill_ray.vqvae import encode_long

    config = loaded.vqvae_config
    encode_all = None
    if on_cluster is not None:
        from distill_ray.runtime.spread_codes import ClusterEncoder

        encode_all = ClusterEncoder(
            loaded.model,
            corpus,
            chunk_frames=_CHUNK_FRAMES,
            accelerator=accelerator,
            listener=on_cluster,
        )
    model = loaded.model.to("cuda" if accelerator and torch.cuda.is_available() else "cpu")
    files = [*corpus.files("train"), *corpus.files("val")]
    return extract_code_sequences(
        lambda audio_CT: encode_long(model, audio_CT, chunk_frames=_CHUNK_FRAMES),
        corpus,
        files,
        cache=cache or code_cache(),
        model_hash=loaded.codec_sha256,
        codebook_size=config.codebook_size,
        num_quantizers=config.num_quantizers,
        on_progress=lambda progress: on_progress(progress.files, progress.total_files, "files"),
        encode_all=encode_all,
    )


def code_cache() -> Path:
    """Where code shards are kept: `$XDG_CACHE_HOME/distill-ray/codes`."""
    return cache_root() / "codes"


def _health_of_best(run: dict[str, Any], completed: TrainingCompleteEvent) -> tuple[LevelHealth, ...]:
    """The health of the epoch whose weights are saved; the last one's where no epoch was finished."""
    for epoch in run["history"]:
        if epoch["epoch"] == completed.best_epoch:
            return tuple(LevelHealth(**level) for level in epoch["codebook_health"])
    return completed.codebook_health


def _history(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: epoch[key] for key in _HISTORY} for epoch in run["history"]]


def _provenance(run_id: str, seed: int) -> dict[str, Any]:
    return {"run_id": run_id, "seed": seed, "ray_job_id": os.environ.get("RAY_JOB_ID")}
