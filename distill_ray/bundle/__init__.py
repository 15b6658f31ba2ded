"""The `.distill` file: one safetensors file with the codec, the prior and a JSON manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.bundle.device import choose_device
    from distill_ray.bundle.format import Manifest, PriorPart
    from distill_ray.bundle.merge import (
        FileFacts,
        bundle_models,
        file_facts,
        model_hash,
        read_manifest,
        verify,
    )
    from distill_ray.bundle.read import LoadedVQModel, load_model_v2
    from distill_ray.bundle.write import save_model_v2, save_prior_to_model

__all__ = [
    "FileFacts",
    "LoadedVQModel",
    "Manifest",
    "PriorPart",
    "bundle_models",
    "choose_device",
    "file_facts",
    "load_model_v2",
    "model_hash",
    "read_manifest",
    "save_model_v2",
    "save_prior_to_model",
    "verify",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "FileFacts": "distill_ray.bundle.merge",
        "LoadedVQModel": "distill_ray.bundle.read",
        "Manifest": "distill_ray.bundle.format",
        "PriorPart": "distill_ray.bundle.format",
        "bundle_models": "distill_ray.bundle.merge",
        "choose_device": "distill_ray.bundle.device",
        "file_facts": "distill_ray.bundle.merge",
        "load_model_v2": "distill_ray.bundle.read",
        "model_hash": "distill_ray.bundle.merge",
        "read_manifest": "distill_ray.bundle.merge",
        "save_model_v2": "distill_ray.bundle.write",
        "save_prior_to_model": "distill_ray.bundle.write",
        "verify": "distill_ray.bundle.merge",
    },
)
