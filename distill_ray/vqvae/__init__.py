"""The codec, without distribution: audio → RVQ codes → audio.

    spectral ─┬─► encoder ─► quantizer (kmeans) ─► decoder ─► model ─► streaming
              │                     phases ─► magnitudes ─┘     results, health
              └─► losses ─► magnitude_loss
    flow ─► flow_decoder (beside decoder); blocks; regression; kernels (Triton, where it runs)
    discriminator ─► adversarial

Imports `config` and `errors` only; `training` turns it into a run, `bundle` stores it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.config.resolve import get_adaptive_vqvae_config
    from distill_ray.config.vqvae import LossConfig, VQVAEConfig
    from distill_ray.vqvae.agreement import code_agreement
    from distill_ray.vqvae.health import (
        CodeAgreement,
        Collapse,
        HealthRule,
        LevelHealth,
        codebook_health,
        utilization_warnings,
    )
    from distill_ray.vqvae.losses import CodecLoss, ReconstructionLoss
    from distill_ray.vqvae.magnitude_loss import codec_loss
    from distill_ray.vqvae.model import VQVAE
    from distill_ray.vqvae.quantizer import ResidualVectorQuantizer
    from distill_ray.vqvae.results import VQVAEOutput
    from distill_ray.vqvae.streaming import decode_batches, decode_blocks, decode_latents, encode_long

__all__ = [
    "VQVAE",
    "CodeAgreement",
    "CodecLoss",
    "Collapse",
    "HealthRule",
    "LevelHealth",
    "LossConfig",
    "ReconstructionLoss",
    "ResidualVectorQuantizer",
    "VQVAEConfig",
    "VQVAEOutput",
    "code_agreement",
    "codebook_health",
    "codec_loss",
    "decode_batches",
    "decode_blocks",
    "decode_latents",
    "encode_long",
    "get_adaptive_vqvae_config",
    "utilization_warnings",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "VQVAE": "distill_ray.vqvae.model",
        "CodeAgreement": "distill_ray.vqvae.health",
        "CodecLoss": "distill_ray.vqvae.losses",
        "Collapse": "distill_ray.vqvae.health",
        "HealthRule": "distill_ray.vqvae.health",
        "LevelHealth": "distill_ray.vqvae.health",
        "LossConfig": "distill_ray.config.vqvae",
        "ReconstructionLoss": "distill_ray.vqvae.losses",
        "ResidualVectorQuantizer": "distill_ray.vqvae.quantizer",
        "VQVAEConfig": "distill_ray.config.vqvae",
        "VQVAEOutput": "distill_ray.vqvae.results",
        "code_agreement": "distill_ray.vqvae.agreement",
        "codebook_health": "distill_ray.vqvae.health",
        "codec_loss": "distill_ray.vqvae.magnitude_loss",
        "decode_batches": "distill_ray.vqvae.streaming",
        "decode_blocks": "distill_ray.vqvae.streaming",
        "decode_latents": "distill_ray.vqvae.streaming",
        "encode_long": "distill_ray.vqvae.streaming",
        "get_adaptive_vqvae_config": "distill_ray.config.resolve",
        "utilization_warnings": "distill_ray.vqvae.health",
    },
)
