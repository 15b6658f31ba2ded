"""Work on whole parts of `.distill` files without torch: read, verify, join.

A part is the codec or the prior: its arrays as they lie in the file, checked against their sha256.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.bundle.container import Array, Container, digest, open_container, write_container
from distill_ray.bundle.format import (
    CODEC_PREFIX,
    FORMAT,
    NOUN,
    PRIOR_PREFIX,
    VERSION,
    Manifest,
    prior_mismatch,
    with_prior,
)
from distill_ray.errors import BundleError
from distill_ray.storage.output_file import check_output


@dataclass(frozen=True, kw_only=True)
class Part:
    """The tensors of one prefix and the manifest of the file that they come from."""

    manifest: Manifest
    document: dict[str, Any]
    """The manifest as the file has it: a file made from it keeps also what this version would not write."""
    arrays: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What `distill-ray info` tells about a file beside its manifest."""

    bytes: int
    codec_parameters: int
    prior_parameters: int


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[tuple[Container, Manifest]]:
    """Open a `.distill` file; its manifest and the names of its tensors are checked. Raises BundleError."""
    with open_container(path, kind=FORMAT, version=VERSION, noun=NOUN) as container:
        manifest = Manifest.from_json(container.document, path)
        allowed = (CODEC_PREFIX, PRIOR_PREFIX) if manifest.has_prior else (CODEC_PREFIX,)
        strangers = [name for name in container.tensors if not name.startswith(allowed)]
        if strangers:
            raise BundleError(f"{path} is not usable: the tensor {strangers[0]!r} belongs to no part of it")
        yield container, manifest


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of `path`, checked; no tensor is read. Raises BundleError."""
    with open_model(Path(path)) as (_, manifest):
        return manifest


def file_facts(path: str | Path) -> FileFacts:
    """Size and element counts, from the header alone. Raises BundleError."""
    with open_model(Path(path)) as (container, _):
        return FileFacts(
            bytes=Path(path).stat().st_size,
            codec_parameters=_elements(container, CODEC_PREFIX),
            prior_parameters=_elements(container, PRIOR_PREFIX),
        )


def read_part(path: Path, prefix: str) -> Part:
    """One part, its sha256 checked. Raises BundleError, also where the file has no such part."""
    with open_model(path) as (container, manifest):
        if prefix == PRIOR_PREFIX and manifest.prior is None:
            raise BundleError(f"{path} has no prior; add one with `distill-ray train-prior {path} DATA`")
        arrays = {name: container.read(name) for name in container.names(prefix)}
        check_digest(container, manifest, prefix, arrays)
        return Part(manifest=manifest, document=container.document, arrays=arrays)


def check_digest(container: Container, manifest: Manifest, prefix: str, arrays: dict[str, Array]) -> None:
    """Raise BundleError where the arrays of a part do not match the manifest's sha256."""
    if prefix == CODEC_PREFIX:
        config, expected = container.document["vqvae_config"], manifest.codec_sha256
    else:
        assert manifest.prior is not None, "only a file with a prior has prior arrays to check"
        config, expected = container.document["prior_config"], manifest.prior.sha256
    if digest(config, arrays) != expected:
        raise BundleError(
            f"{container.path} is damaged ({prefix}* does not match its checksum); "
            "copy it again from where it was made"
        )


def verify(path: str | Path) -> Manifest:
    """Check the sha256 of every part and return the manifest. Raises BundleError."""
    path = Path(path)
    part = read_part(path, CODEC_PREFIX)
    return read_part(path, PRIOR_PREFIX).manifest if part.manifest.has_prior else part.manifest


def model_hash(path: str | Path) -> str:
    """The codec's identity: sha256 of its config and its tensors, recomputed; a prior does not change it."""
    return read_part(Path(path), CODEC_PREFIX).manifest.codec_sha256


def bundle_models(
    model: str | Path, prior_file: str | Path, out: str | Path, *, overwrite: bool = False
) -> Manifest:
    """Join the codec of `model` with the prior of `prior_file` in `out` and return the new manifest.

    `out` may be `model` itself where that has no other prior; what else exists is replaced only with
    `overwrite`, and `prior_file` never. Raises BundleError where the prior was trained on the codes of
    another codec, UsageError for an `out` that cannot be used.
    """
    model, prior_file, out = Path(model), Path(prior_file), Path(out)
    in_place = out.exists() and model.exists() and out.samefile(model)
    check_output(out, *(() if in_place else (prior_file,)), overwrite=overwrite or in_place)
    codec, prior = read_part(model, CODEC_PREFIX), read_part(prior_file, PRIOR_PREFIX)
    found = prior.manifest.prior
    assert found is not None, "read_part refuses a file without a prior"
    mismatch = prior_mismatch(codec.manifest.vqvae_config, found.config)
    if mismatch is None and found.codec_sha256 != codec.manifest.codec_sha256:
        mismatch = "learned the codes of another codec"
    if mismatch:
        raise BundleError(
            f"the prior of {prior_file} does not belong to the codec of {model}: it {mismatch}; "
            f"train one with `distill-ray train-prior {model} DATA`"
        )
    there = codec.manifest.prior
    if not overwrite and out.exists() and there is not None and there.sha256 != found.sha256:
        raise BundleError(
            f"{out} has another prior; add --overwrite to replace it, or choose another output path"
        )
    document = with_prior(codec.document, prior.document, found.sha256)
    write_container(out, {**codec.arrays, **prior.arrays}, document, kind=FORMAT, version=VERSION)
    return Manifest.from_json(document, out)


def _elements(container: Container, prefix: str) -> int:
    return sum(container.tensors[name].size for name in container.names(prefix))
