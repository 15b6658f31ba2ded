"""What the manifest of a `.distill` file says, and its strict reading; no torch.

`write.py` and `merge.py` make manifests, `read.py` and `info` read them, `container.py` keeps the JSON.
A document is trusted in nothing: configs pass through the checks of `VQVAEConfig` and `PriorConfig`, and
everything else is compared with the type that is written here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.bundle.fields import Fields
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import MODEL_BEFORE, VQVAEConfig
from distill_ray.errors import BundleError
from distill_ray.jsonable import jsonable
from distill_ray.prior.controls import Controls
from distill_ray.vqvae.health import CodeAgreement, LevelHealth

FORMAT = "distill_model"
VERSION = "2"
NOUN = "a .distill file, as `distill-ray train` writes it"
CODES = "codes"
"""Key of the metadata that says how far codes agree (`Manifest.code_agreement`)."""
TEMPERATURES = "temperatures"
"""Key of the prior's metadata with the temperatures of its levels (`PriorPart.temperatures`)."""
CONTROLS = "controls"
"""Key of the prior's metadata with its labels and controls (`PriorPart.controls`)."""
CODEC_PREFIX = "vqvae."
PRIOR_PREFIX = "prior."

NO_PRIOR = {"has_prior": False, "prior_config": None, "prior_metadata": None, "prior_codec_sha256": None}


@dataclass(frozen=True, kw_only=True)
class PriorPart:
    """The prior's part of a manifest."""

    config: PriorConfig
    metadata: Mapping[str, Any]
    sha256: str
    """`container.digest` of the config and the `prior.*` tensors."""
    codec_sha256: str
    """The codec hash of the file whose codes the prior learned."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Of each level; 1 where they were never set, as before 2026-11-30.

        Raises BundleError where what the file says of them cannot be read.
        """
        found = self.metadata.get(TEMPERATURES) or [{"temperature": 1.0}] * self.config.num_quantizers
        try:
            values = tuple(float(level["temperature"]) for level in found)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise BundleError(
                f"the model is not usable: prior_metadata.{TEMPERATURES} is damaged ({error!r})"
            ) from error
        if len(values) != self.config.num_quantizers or not all(1e-3 < value < 1e3 for value in values):
            raise BundleError(
                f"the model is not usable: prior_metadata.{TEMPERATURES} are not "
                f"{self.config.num_quantizers} temperatures"
            )
        return values

    @property
    def controls(self) -> Controls | None:
        """Labels and controls; None where it learnt none. Raises BundleError where they cannot be read."""
        found = self.metadata.get(CONTROLS)
        if not self.config.controls or found is None:
            return None
        try:
            controls = Controls.from_json(found)
        except ValueError as error:
            raise BundleError(f"the model is not usable: prior_metadata.{CONTROLS}: {error}") from error
        if (len(controls.labels), len(controls.scales)) != (self.config.labels, self.config.controls):
            raise BundleError(f"the model is not usable: prior_metadata.{CONTROLS} is of another prior")
        return controls

    def to_json(self) -> dict[str, Any]:
        """The prior's keys of a manifest document, but for its sha256."""
        return {
            "has_prior": True,
            "prior_config": dataclasses.asdict(self.config),
            "prior_metadata": jsonable(self.metadata),
            "prior_codec_sha256": self.codec_sha256,
        }


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of a `.distill` file but its tensors.

    `metadata` is what `save_model_v2` was given: the keys `corpus`, `loss_history` and `provenance`
    (package versions, seed, run id, Ray job id) always exist, others may.
    """

    vqvae_config: VQVAEConfig
    codebook_health: tuple[LevelHealth, ...]
    """One entry a level; empty where it was never measured."""
    metadata: Mapping[str, Any]
    codec_sha256: str
    """`container.digest` of the config and the `vqvae.*` tensors: the codec's identity (`model_hash`)."""
    prior: PriorPart | None = None

    @property
    def has_prior(self) -> bool:
        return self.prior is not None

    @property
    def code_agreement(self) -> CodeAgreement | None:
        """How far codes of held-out audio agree under changes that nobody hears; None: never measured.

        Raises BundleError where what the file says of it cannot be read.
        """
        found = self.metadata.get(CODES)
        if found is None:
            return None
        levels = self.vqvae_config.num_quantizers
        try:
            agreement = CodeAgreement(
                **{
                    item.name: tuple(float(share) for share in found[item.name])
                    for item in dataclasses.fields(CodeAgreement)
                }
            )
        except (TypeError, ValueError, KeyError) as error:
            raise BundleError(f"the model is not usable: metadata.{CODES} is damaged ({error!r})") from error
        if any(len(shares) != levels for shares in dataclasses.asdict(agreement).values()):
            raise BundleError(f"the model is not usable: metadata.{CODES} does not have {levels} levels")
        return agreement

    @property
    def kbps(self) -> float:
        """Nominal bit rate at full depth in kbit/s."""
        config = self.vqvae_config
        return config.num_quantizers * math.log2(config.codebook_size) * config.frame_rate / 1000

    def to_json(self) -> dict[str, Any]:
        """The document; `from_json` reads it back."""
        document = {
            "vqvae_config": dataclasses.asdict(self.vqvae_config),
            "sample_rate": self.vqvae_config.sample_rate,
            "channels": self.vqvae_config.channels,
            "codebook_health": [dataclasses.asdict(level) for level in self.codebook_health],
            "metadata": jsonable(self.metadata),
            **NO_PRIOR,
            "sha256": {"vqvae": self.codec_sha256, "prior": None},
        }
        return (
            document if self.prior is None else with_prior(document, self.prior.to_json(), self.prior.sha256)
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: Path) -> Manifest:
        """Read a document. Raises BundleError naming `where` and the first key that is wrong."""
        fields = Fields(document, where, "")
        config = fields.section("vqvae_config", VQVAEConfig, before=MODEL_BEFORE)
        hashes = fields.child("sha256")
        health = tuple(
            _level_health(level, where) for level in fields.value("codebook_health", list, "a list")
        )
        if health and len(health) != config.num_quantizers:
            fields.refuse("codebook_health", f"has {len(health)} levels, the codec {config.num_quantizers}")
        for name in ("sample_rate", "channels"):
            if fields.value(name, int, "a whole number") != getattr(config, name):
                fields.refuse(name, "does not agree with vqvae_config")
        prior = None
        if fields.value("has_prior", bool, "true or false"):
            prior = PriorPart(
                config=fields.section("prior_config", PriorConfig),
                metadata=fields.value("prior_metadata", dict, "an object"),
                sha256=hashes.sha256("prior"),
                codec_sha256=fields.sha256("prior_codec_sha256"),
            )
            mismatch = prior_mismatch(config, prior.config)
            if mismatch:
                fields.refuse("prior_config", mismatch)
        return cls(
            vqvae_config=config,
            codebook_health=health,
            metadata=fields.value("metadata", dict, "an object"),
            codec_sha256=hashes.sha256("vqvae"),
            prior=prior,
        )


def with_prior(document: Mapping[str, Any], prior: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """The codec's document with the keys `NO_PRIOR` taken from `prior`; every other key stays as it is."""
    hashes = {**document["sha256"], "prior": sha256}
    return {**document, **{key: prior[key] for key in NO_PRIOR}, "sha256": hashes}


def prior_mismatch(codec: VQVAEConfig, prior: PriorConfig) -> str | None:
    """Why a prior cannot belong to a codec, or None where it can."""
    if prior.num_quantizers != codec.num_quantizers:
        return f"has {prior.num_quantizers} levels, the codec {codec.num_quantizers}"
    if prior.codebook_size != codec.codebook_size:
        return f"has {prior.codebook_size} codes a level, the codec {codec.codebook_size}"
    return None


def _level_health(level: Any, where: Path) -> LevelHealth:
    if not isinstance(level, dict):
        raise BundleError(f"{where} is not usable: codebook_health holds something that is not an object")
    fields = Fields(level, where, "codebook_health.")
    return LevelHealth(
        utilization=fields.number("utilization"),
        perplexity=fields.number("perplexity"),
        dead_codes=fields.value("dead_codes", int, "a whole number"),
        entropy=fields.number("entropy"),
        **{name: fields.number(name) for name in ("kept", "gain") if level.get(name) is not None},
    )
