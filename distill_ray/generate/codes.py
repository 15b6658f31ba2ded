"""The codes file: what `encode` writes and `decode` reads.

A safetensors file (`bundle/container.py`) with one tensor `codes`, int16 [Q, F], and a document that says
which codec they belong to and how long the audio is to the sample.

Legend: Q RVQ levels, F code frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_ray.bundle.container import digest, open_container, write_container
from distill_ray.bundle.fields import Fields
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import BundleError

FORMAT = "distill_codes"
VERSION = "1"
NOUN = "a codes file, as `distill-ray encode` writes it"
TENSOR = "codes"


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The codes of one recording."""

    codes_QF: Tensor
    """int64, the first Q levels of the codec."""
    samples: int
    sample_rate: int
    channels: int
    frame_hop: int
    codebook_size: int
    model_sha256: str
    """The codec's `model_hash`."""


def save_codes(path: Path, codes: Codes) -> None:
    """Write a codes file atomically. Raises BundleError where it cannot be written."""
    arrays = {TENSOR: codes.codes_QF.numpy().astype(np.int16)}
    facts = {
        "samples": codes.samples,
        "sample_rate": codes.sample_rate,
        "channels": codes.channels,
        "frame_hop": codes.frame_hop,
        "codebook_size": codes.codebook_size,
        "model_sha256": codes.model_sha256,
    }
    document = {**facts, "sha256": digest(facts, arrays)}
    write_container(path, arrays, document, kind=FORMAT, version=VERSION)


def load_codes(path: Path) -> Codes:
    """Read a codes file; everything in it is checked. Raises BundleError with one sentence."""
    with open_container(path, kind=FORMAT, version=VERSION, noun=NOUN) as container:
        facts = dict(container.document)
        fields = Fields(facts, path, "")
        expected = fields.sha256("sha256")
        del facts["sha256"]
        if list(container.tensors) != [TENSOR] or container.tensors[TENSOR].dtype != "I16":
            raise BundleError(f"{path} is not usable: it must hold one tensor {TENSOR!r} of dtype I16")
        arrays = {TENSOR: container.read(TENSOR)}
    if digest(facts, arrays) != expected:
        raise BundleError(
            f"{path} is damaged (its codes do not match their checksum); encode the audio again"
        )
    codes = Codes(
        codes_QF=torch.from_numpy(arrays[TENSOR]).long(),
        samples=_positive(fields, "samples"),
        sample_rate=_positive(fields, "sample_rate"),
        channels=_positive(fields, "channels"),
        frame_hop=_positive(fields, "frame_hop"),
        codebook_size=_positive(fields, "codebook_size"),
        model_sha256=fields.sha256("model_sha256"),
    )
    shape = codes.codes_QF.shape
    if len(shape) != 2 or not shape[0] or shape[1] != -(-codes.samples // codes.frame_hop):
        raise BundleError(f"{path} is not usable: {list(shape)} codes do not make {codes.samples} samples")
    if int(codes.codes_QF.min()) < 0 or int(codes.codes_QF.max()) >= codes.codebook_size:
        raise BundleError(f"{path} is not usable: it holds codes outside 0…{codes.codebook_size - 1}")
    return codes


def check_fit(codes: Codes, config: VQVAEConfig, model_sha256: str, *, where: Path, force: bool) -> None:
    """Raise BundleError where the codes do not belong to the codec; with `force`, only where they cannot be
    decoded by it at all.
    """
    if codes.model_sha256 == model_sha256:
        return
    problem = _unfit(codes, config)
    if problem:
        raise BundleError(f"{where} was made by another model and does not fit this one: it has {problem}")
    if not force:
        raise BundleError(
            f"{where} was made by another model; decode it with that one, or add --force to hear it through "
            "this one"
        )


def _unfit(codes: Codes, config: VQVAEConfig) -> str | None:
    if codes.codes_QF.shape[0] > config.num_quantizers:
        return f"{codes.codes_QF.shape[0]} levels and the model {config.num_quantizers}"
    if int(codes.codes_QF.max()) >= config.codebook_size:
        return f"codes up to {int(codes.codes_QF.max())} and the model {config.codebook_size} codes"
    if codes.frame_hop != config.frame_hop:
        return f"{codes.frame_hop} samples a frame and the model {config.frame_hop}"
    return None


def _positive(fields: Fields, key: str) -> int:
    value: Any = fields.value(key, int, "a whole number")
    if value < 1:
        fields.refuse(key, "is not positive")
    return int(value)
