"""The autoregressive prior over RVQ codes, pure torch and without distribution.

    codes ─► windows ─► model (patterns, transformer) ─► sampling
                                                     └─► memorization

Imports `config` and `errors` only; the codec and the corpus reach `codes` through protocols. `training`
turns it into a run, `bundle` stores it, `generate` makes audio of its codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.config.generation import SamplingConfig
    from distill_ray.config.prior import PriorConfig
    from distill_ray.config.resolve import get_adaptive_prior_config
    from distill_ray.prior.codes import (
        CodeSequence,
        CodeStore,
        EncodeProgress,
        extract_code_sequences,
        load_code_sequences,
    )
    from distill_ray.prior.controls import Controls
    from distill_ray.prior.guidance import Guidance
    from distill_ray.prior.measures import measure
    from distill_ray.prior.memorization import MatchReport, MemorizationReport, check_memorization
    from distill_ray.prior.model import CodePrior, PriorOutput, bits_per_second, perplexity
    from distill_ray.prior.patterns import (
        CodePattern,
        code_pattern,
        flatten_codes,
        unflatten_codes,
    )
    from distill_ray.prior.sampling import sample_codes, stream_codes
    from distill_ray.prior.windows import CodeWindows, CodeWindowSampler, validation_windows

_WHERE = {
    "distill_ray.config.generation": ("SamplingConfig",),
    "distill_ray.config.prior": ("PriorConfig",),
    "distill_ray.config.resolve": ("get_adaptive_prior_config",),
    "distill_ray.prior.codes": (
        "CodeSequence",
        "CodeStore",
        "EncodeProgress",
        "extract_code_sequences",
        "load_code_sequences",
    ),
    "distill_ray.prior.controls": ("Controls",),
    "distill_ray.prior.guidance": ("Guidance",),
    "distill_ray.prior.measures": ("measure",),
    "distill_ray.prior.memorization": ("MatchReport", "MemorizationReport", "check_memorization"),
    "distill_ray.prior.model": (
        "CodePrior",
        "PriorOutput",
        "bits_per_second",
        "perplexity",
    ),
    "distill_ray.prior.patterns": (
        "CodePattern",
        "code_pattern",
        "flatten_codes",
        "unflatten_codes",
    ),
    "distill_ray.prior.sampling": ("sample_codes", "stream_codes"),
    "distill_ray.prior.windows": ("CodeWindowSampler", "CodeWindows", "validation_windows"),
}

__all__ = [
    "CodePattern",
    "CodePrior",
    "CodeSequence",
    "CodeStore",
    "CodeWindowSampler",
    "CodeWindows",
    "Controls",
    "EncodeProgress",
    "Guidance",
    "MatchReport",
    "MemorizationReport",
    "PriorConfig",
    "PriorOutput",
    "SamplingConfig",
    "bits_per_second",
    "check_memorization",
    "code_pattern",
    "extract_code_sequences",
    "flatten_codes",
    "get_adaptive_prior_config",
    "load_code_sequences",
    "measure",
    "perplexity",
    "sample_codes",
    "stream_codes",
    "unflatten_codes",
    "validation_windows",
]

__getattr__ = lazy_exports(__name__, {name: module for module, names in _WHERE.items() for name in names})
