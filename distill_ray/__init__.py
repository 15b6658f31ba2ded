"""distill-ray: train an RVQ codec and a prior over its codes on a folder of recordings, with Ray.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports
from distill_ray.threads import prepare_environment
from distill_ray.version import __version__ as __version__

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel, load_model_v2, save_model_v2, save_prior_to_model
    from distill_ray.errors import DistillError
    from distill_ray.generate import Model, Sound, load
    from distill_ray.prior import (
        CodePrior,
        PriorConfig,
        SamplingConfig,
        check_memorization,
        extract_code_sequences,
        flatten_codes,
        get_adaptive_prior_config,
        unflatten_codes,
    )
    from distill_ray.python.files import (
        decode_file,
        decode_folder,
        encode_file,
        encode_folder,
        ensure_corpus,
        evaluate_model,
        generate_samples,
        generate_stream,
        open_corpus,
        prepare_corpus,
    )
    from distill_ray.python.trainings import run, train
    from distill_ray.training import (
        PriorEpochMetrics,
        PriorStepMetrics,
        PriorTrainingCompleteEvent,
        TrainingCompleteEvent,
        VQEpochMetrics,
        VQStepMetrics,
        train_prior,
        train_vqvae,
    )
    from distill_ray.vqvae import VQVAE, VQVAEConfig, get_adaptive_vqvae_config


prepare_environment()  # before anything imports torch

_WHERE = {
    "bundle": ("LoadedVQModel", "load_model_v2", "save_model_v2", "save_prior_to_model"),
    "errors": ("DistillError",),
    "generate": ("Model", "Sound", "load"),
    "prior": (
        "CodePrior",
        "PriorConfig",
        "SamplingConfig",
        "check_memorization",
        "extract_code_sequences",
        "flatten_codes",
        "get_adaptive_prior_config",
        "unflatten_codes",
    ),
    "python.files": (
        "decode_file",
        "decode_folder",
        "encode_file",
        "encode_folder",
        "ensure_corpus",
        "evaluate_model",
        "generate_samples",
        "generate_stream",
        "open_corpus",
        "prepare_corpus",
    ),
    "python.trainings": ("run", "train"),
    "training": (
        "PriorEpochMetrics",
        "PriorStepMetrics",
        "PriorTrainingCompleteEvent",
        "TrainingCompleteEvent",
        "VQEpochMetrics",
        "VQStepMetrics",
        "train_prior",
        "train_vqvae",
    ),
    "vqvae": ("VQVAE", "VQVAEConfig", "get_adaptive_vqvae_config"),
}

__all__ = [
    "VQVAE",
    "CodePrior",
    "DistillError",
    "LoadedVQModel",
    "Model",
    "PriorConfig",
    "PriorEpochMetrics",
    "PriorStepMetrics",
    "PriorTrainingCompleteEvent",
    "SamplingConfig",
    "Sound",
    "TrainingCompleteEvent",
    "VQEpochMetrics",
    "VQStepMetrics",
    "VQVAEConfig",
    "check_memorization",
    "decode_file",
    "decode_folder",
    "encode_file",
    "encode_folder",
    "ensure_corpus",
    "evaluate_model",
    "extract_code_sequences",
    "flatten_codes",
    "generate_samples",
    "generate_stream",
    "get_adaptive_prior_config",
    "get_adaptive_vqvae_config",
    "load",
    "load_model_v2",
    "open_corpus",
    "prepare_corpus",
    "run",
    "save_model_v2",
    "save_prior_to_model",
    "train",
    "train_prior",
    "train_vqvae",
    "unflatten_codes",
]

__getattr__ = lazy_exports(
    __name__, {name: f"{__name__}.{package}" for package, names in _WHERE.items() for name in names}
)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
