"""Load `.distill` files into modules; the counterpart of `write.py`.

A file is believed in nothing: a model is built within a memory budget that the file's own size sets, and
takes the weights only where names, dtypes, shapes and sha256 are what its manifest implies and every value
is finite. For 40 M parameters the sum takes 0.15 s of 0.8 s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distill_ray.argument_types import checks_arguments
from distill_ray.bundle.container import Container
from distill_ray.bundle.format import CODEC_PREFIX, PRIOR_PREFIX, Manifest
from distill_ray.bundle.merge import check_digest, open_model
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import BundleError
from distill_ray.prior.controls import Controls
from distill_ray.storage.paths import AnyPath, as_path
from distill_ray.vqvae import VQVAE
from distill_ray.vqvae.health import LevelHealth

if TYPE_CHECKING:
    from distill_ray.prior import CodePrior

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.bool: "BOOL",
}


# What a module may create beside its weights: tables and the temporaries of its initialisation.
_SPARE_ELEMENTS = 1 << 27
# Rotary tables hold a row for each step of the context; beyond any use, before any harm.
_MOST_POSITIONS = 1 << 26
_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


@dataclass(frozen=True, kw_only=True)
class LoadedVQModel:
    """A `.distill` file in memory, its modules in eval mode; the prior fields are None without a prior."""

    model: VQVAE
    metadata: Mapping[str, Any]
    codebook_health: tuple[LevelHealth, ...]
    vqvae_config: VQVAEConfig
    prior: CodePrior | None
    prior_config: PriorConfig | None
    prior_metadata: Mapping[str, Any] | None
    controls: Controls | None
    """What the prior can be asked for."""
    path: Path
    codec_sha256: str
    """The codec's identity, as `model_hash` gives it."""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.quantizer.codebooks_QKD.device

    def is_trained_on(self, corpus_digest: str) -> bool:
        """Whether the codec's record says so."""
        record = self.metadata.get("corpus")  # whatever a file says: empty where it was made by hand
        return isinstance(record, Mapping) and record.get("digest") == corpus_digest


@checks_arguments
def load_model_v2(path: AnyPath, *, device: str | torch.device = "cpu") -> LoadedVQModel:
    """Rebuild the codec, and the prior where the file has one, on `device`.

    Raises BundleError with one sentence whatever is wrong with the file.
    """
    path = as_path(path)
    with open_model(path) as (container, manifest):
        config = manifest.vqvae_config
        model = _load(container, manifest, CODEC_PREFIX, lambda: VQVAE(config), device)
        prior = None
        if manifest.prior is not None:
            prior = _load_prior(container, manifest, manifest.prior.config, device)
            prior.temperature_Q.copy_(torch.tensor(manifest.prior.temperatures))
    return LoadedVQModel(
        model=model,
        metadata=manifest.metadata,
        codebook_health=manifest.codebook_health,
        vqvae_config=config,
        prior=prior,
        prior_config=manifest.prior.config if manifest.prior else None,
        prior_metadata=manifest.prior.metadata if manifest.prior else None,
        controls=manifest.prior.controls if manifest.prior else None,
        path=path,
        codec_sha256=manifest.codec_sha256,
    )


def _load_prior(
    container: Container, manifest: Manifest, config: PriorConfig, device: str | torch.device
) -> CodePrior:
    from distill_ray.prior import CodePrior  # a file without a prior needs none of its code

    stride = config.num_quantizers if config.pattern == "flatten" else 1
    if config.context_frames * stride * (config.hidden_size // config.num_heads) > _MOST_POSITIONS:
        raise BundleError(f"{container.path} is not usable: its prior's context is absurdly long")
    prior = _load(container, manifest, PRIOR_PREFIX, lambda: CodePrior(config), device)
    openings = prior.openings_NQT
    if openings.numel() and not 0 <= int(openings.min()) <= int(openings.max()) < config.codebook_size:
        raise BundleError(
            f"{container.path} is not usable: its prior begins with codes that it does not have"
        )
    return prior


def _load(
    container: Container,
    manifest: Manifest,
    prefix: str,
    build: Callable[[], ModuleT],
    device: str | torch.device,
) -> ModuleT:
    stored = sum(container.tensors[name].size for name in container.names(prefix))
    # The random start of a module that is overwritten at once must not move the caller's generators.
    with torch.random.fork_rng(devices=[]), _Budget(container.path, stored + _SPARE_ELEMENTS):
        module = build()
    _check_tensors(container, prefix, module.state_dict())
    arrays = {name: container.read(name) for name in container.names(prefix)}
    check_digest(container, manifest, prefix, arrays)
    state = {name.removeprefix(prefix): torch.from_numpy(array) for name, array in arrays.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(
                f"{container.path} is not usable: {prefix}{name} holds values that are not finite"
            )
    module.load_state_dict(state)
    return module.to(device).eval().requires_grad_(False)


class _Budget(TorchFunctionMode):
    """Ends the building of a module whose tensors come to more than `elements`.

    (Building it on the meta device instead would import 800 modules of torch and take seconds.)
    """

    def __init__(self, path: Path, elements: int) -> None:
        super().__init__()
        self._path = path
        self._left = elements

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _FACTORIES:
            self._left -= result.numel()
            if self._left < 0:
                raise BundleError(
                    f"{self._path} is not usable: its config implies a larger model than the file holds"
                )
        return result


def _check_tensors(container: Container, prefix: str, expected: Mapping[str, Tensor]) -> None:
    found = {name.removeprefix(prefix): container.tensors[name] for name in container.names(prefix)}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise BundleError(f"{container.path} is not usable: the tensor {prefix}{name} is missing")
        if name not in expected:
            raise BundleError(
                f"{container.path} is not usable: its config has no place for the tensor {prefix}{name}"
            )
        want = (_DTYPES[expected[name].dtype], tuple(expected[name].shape))
        have = (found[name].dtype, found[name].shape)
        if want != have:
            raise BundleError(
                f"{container.path} is not usable: {prefix}{name} is {have[0]} {list(have[1])} where its "
                f"config implies {want[0]} {list(want[1])}"
            )
