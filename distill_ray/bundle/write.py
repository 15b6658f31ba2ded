"""Save models: torch modules → arrays and manifest → one `.distill` file, atomically.

`read.py` loads what is written here; `merge.py` joins files without torch; `container.py` lays out the bytes.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distill_ray.argument_types import checks_arguments, shown
from distill_ray.bundle.container import Array, digest, write_container
from distill_ray.bundle.format import (
    CODEC_PREFIX,
    FORMAT,
    PRIOR_PREFIX,
    VERSION,
    Manifest,
    PriorPart,
    prior_mismatch,
    with_prior,
)
from distill_ray.bundle.merge import Part, read_part
from distill_ray.errors import BundleError
from distill_ray.jsonable import jsonable
from distill_ray.storage.paths import AnyPath, as_path
from distill_ray.vqvae.health import LevelHealth

if TYPE_CHECKING:
    from distill_ray.prior import CodePrior
    from distill_ray.vqvae import VQVAE

_PACKAGES = ("distill-ray", "torch", "torchaudio", "ray", "numpy", "safetensors", "soundfile")


@checks_arguments
def save_model_v2(
    path: AnyPath,
    model: VQVAE,
    *,
    metadata: Mapping[str, Any],
    codebook_health: Sequence[LevelHealth],
    prior: CodePrior | None = None,
    prior_metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a codec, and a prior where there is one, to `path`; the same input gives the same bytes.

    `metadata` is anything that JSON can hold; `corpus`, `loss_history` and `provenance` are added where
    they are missing, and the provenance is completed with the package versions. Raises BundleError where a
    weight is not finite, the prior does not fit the codec, or the file cannot be written.
    """
    path = as_path(path)
    arrays = _arrays(model, CODEC_PREFIX, path)
    manifest = Manifest(
        vqvae_config=model.config,
        codebook_health=tuple(codebook_health),
        metadata=_complete(metadata),
        codec_sha256=digest(dataclasses.asdict(model.config), arrays),
    )
    if prior is None:
        write_container(path, arrays, manifest.to_json(), kind=FORMAT, version=VERSION)
    else:
        codec = Part(manifest=manifest, document=manifest.to_json(), arrays=arrays)
        _write_both(path, codec, prior, prior_metadata or {})
    return path


@checks_arguments
def save_prior_to_model(
    path: AnyPath,
    prior: CodePrior,
    *,
    prior_metadata: Mapping[str, Any],
    codec_sha256: str | None = None,
) -> Path:
    """Add `prior` to the codec in `path`, or put it in the place of the prior there, atomically.

    The codec's tensors and its part of the manifest stay as they are, to the byte. `codec_sha256` names the
    codec whose codes the prior learned, where the file could have changed meanwhile. Raises BundleError
    where `path` is no usable model or holds another codec, or a weight of the prior is not finite.
    """
    path = as_path(path)
    codec = read_part(path, CODEC_PREFIX)
    if codec_sha256 not in (None, codec.manifest.codec_sha256):
        raise BundleError(
            f"{path} was changed: it no longer holds the codec whose codes the prior learned; "
            "train the prior again"
        )
    _write_both(path, codec, prior, prior_metadata)
    return path


def _write_both(path: Path, codec: Part, prior: CodePrior, prior_metadata: Mapping[str, Any]) -> None:
    mismatch = prior_mismatch(codec.manifest.vqvae_config, prior.config)
    if mismatch:
        raise BundleError(f"{path} was not written: the prior {mismatch}; train it on this codec's codes")
    arrays = _arrays(prior, PRIOR_PREFIX, path)
    part = PriorPart(
        config=prior.config,
        metadata=prior_metadata,
        sha256=digest(dataclasses.asdict(prior.config), arrays),
        codec_sha256=codec.manifest.codec_sha256,
    )
    document = with_prior(codec.document, part.to_json(), part.sha256)
    write_container(path, {**codec.arrays, **arrays}, document, kind=FORMAT, version=VERSION)


def _arrays(module: nn.Module, prefix: str, path: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    if not isinstance(module, nn.Module):
        raise BundleError(f"{path} was not written: {shown(module)} is no network that has weights")
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor = tensor.float()
            if not torch.isfinite(tensor).all():
                raise BundleError(
                    f"{path} was not written: {prefix}{name} holds values that are not finite; "
                    "train again with a smaller learning rate"
                )
        arrays[prefix + name] = tensor.detach().cpu().contiguous().numpy()
    return arrays


def _complete(metadata: Mapping[str, Any]) -> dict[str, Any]:
    provenance = {
        "seed": None,
        "run_id": None,
        "ray_job_id": None,
        **jsonable(metadata.get("provenance") or {}),
        "versions": {"python": platform.python_version(), **_versions()},
    }
    return {"corpus": {}, "loss_history": [], **jsonable(metadata), "provenance": provenance}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout: nothing to record
            continue
    return found
