"""From what the user said and what the corpus is to a complete configuration.

Every value is either the user's ("override": a flag, or a key of `--config`) or chosen here ("auto") from
the number of files, the amount of audio, whether there is a GPU, the workers and the budget. All problems are
reported at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distill_ray.argument_types import checks_arguments
from distill_ray.config.adversarial import AdversarialConfig
from distill_ray.config.build import build_sections, unknown_keys
from distill_ray.config.catalogue import CODEC, PRIOR
from distill_ray.config.health import HealthConfig
from distill_ray.config.length import (
    FEW_SECONDS,
    PASSES_UNVARIED,
    auto_epochs,
    auto_prior_epochs,
    passes,
)
from distill_ray.config.prior import (
    MOST_LABELS,
    PriorConfig,
    PriorTrainConfig,
    PriorTrainingConfig,
)
from distill_ray.config.setting import Section
from distill_ray.config.vqvae import (
    MAGNITUDE_HEADS,
    SIZES,
    AugmentConfig,
    LossConfig,
    TrainingConfig,
    VQTrainConfig,
    VQVAEConfig,
)
from distill_ray.errors import ConfigError, Problem

HOUR = 3600.0
SIZE = "model.size"

# Parameters: about 1 M, 10 M, 50 M (tests/unit/vqvae holds the exact counts to that).
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 128, "encoder_blocks": 1, "decoder_blocks": 1, "latent_dim": 64},
    "small": {"width": 256, "encoder_blocks": 4, "decoder_blocks": 5, "latent_dim": 128},
    "base": {"width": 768, "encoder_blocks": 2, "decoder_blocks": 3, "latent_dim": 128},
}
# A wide decoder's head must move slowly beside Muon for long runs to stay sound (ARCHITECTURE.md, "Codec").
_RATES: dict[str, dict[str, float]] = {
    "tiny": {"training.lr": 2e-3, "training.muon_rate": 2.0, "training.head_rate": 1.0},
    "small": {"training.lr": 1e-3, "training.muon_rate": 2.0, "training.head_rate": 1.0},
    "base": {"training.lr": 1e-3, "training.muon_rate": 4.0, "training.head_rate": 0.25},
}
RATES = tuple(_RATES["small"])
"""The settings of the optimizer that go by size."""
BY_SIZE = (*RATES, *(f"model.{key}" for key in _SIZES["small"]))
"""All settings that do."""
_BATCH = {TrainingConfig.table: {True: 96, False: 8}, PriorTrainingConfig.table: {True: 32, False: 4}}
"""Windows of a worker in a step, with a GPU and without."""
# Least steps between validations, with a GPU and without: an epoch of 50 ms would be all validation, and a
# small corpus is learnt by heart within a few hundred steps of the prior.
_MIN_EPOCH_STEPS = {"vqvae": {True: 200, False: 10}, "prior": {True: 50, False: 10}}
_VARIED: dict[str, float] = {"speed": 2.0, "equaliser_db": 6.0}
# Code frames are four times as long as usual: in windows of 0.75 s most of them lie near an edge, which no
# frame of a whole recording does.
_LONGER = 2
_COMPONENTS = 64
# Variants of the recordings that a prior trains on beside them. Making one takes two cores about as long as
# so many of their steps for each second of it, when it is to take a quarter of the time.
_VARIANTS = 15
_CPU_STEPS_PER_VARIED_SECOND = 0.27
_LEAST_CONTEXT = 96
_OPENINGS = 512
KEPT_FLOOR = 0.02
"""Floors of a level for generation (docs/measurements/2026-11-30-search.md has healthy and ill runs)."""

Training = TrainingConfig | PriorTrainingConfig
ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """What the automatic choices look at; the format is None as long as it is not known."""

    file_count: int
    train_seconds: float
    sample_rate: int | None
    channels: int | None


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """`workers` is the number of ranks that share a batch, `fewest_workers` the least that may have to where
    nodes can be lost.
    """

    accelerator: bool = False
    workers: int = 1
    fewest_workers: int | None = None


ONE_CPU = MachineFacts()
BUDGET = ("epochs", "max_minutes", "max_steps")
"""The settings of a training that say when it ends."""


@dataclass(frozen=True, kw_only=True)
class Resolved(Generic[ConfigT]):
    """A complete configuration; `overrides` are the dotted keys that the user chose."""

    config: ConfigT
    overrides: frozenset[str]
    size: str

    def source(self, key: str) -> str:
        return "override" if key in self.overrides else "auto"


@checks_arguments
def get_adaptive_vqvae_config(file_count: int, total_seconds: float | None = None) -> VQVAEConfig:
    """The codec for a corpus: 64 / 128 / 256 codes at ≤ 20 / ≤ 100 / > 100 files, more with hours."""
    size = _auto_size(total_seconds or 0.0, accelerator=True)
    return VQVAEConfig(codebook_size=_codebook_size(file_count, total_seconds), **_SIZES[size])


@checks_arguments
def get_adaptive_prior_config(file_count: int, total_seconds: float | None = None) -> PriorConfig:
    """The prior for a corpus: wider and deeper with more audio, more dropout with less."""
    return PriorConfig(**_prior_size(file_count, total_seconds, accelerator=True))


def resolve_vqvae(
    facts: CorpusFacts, *, overrides: Mapping[str, object], machine: MachineFacts = ONE_CPU
) -> Resolved[VQTrainConfig]:
    """The codec run's configuration.

    Raises ConfigError with every problem: unknown keys, values out of range, relations that do not hold.
    """
    given, accelerator = dict(overrides), machine.accelerator
    purpose = given.get("model.purpose", "generation")
    size = str(given.get(SIZE) or _auto_size(facts.train_seconds, accelerator))
    known_size = size if size in SIZES else "small"  # another is refused below
    auto: dict[str, object] = {
        "model.codebook_size": _codebook_size(facts.file_count, facts.train_seconds),
        "model.purpose": purpose,
        "training.batch_size": _auto_batch(TrainingConfig.table, machine),
        **_RATES[known_size],
        "training.min_epoch_steps": _MIN_EPOCH_STEPS["vqvae"][accelerator],
        # Runs on CPUs are too short to learn a corpus by heart.
        "augment.mix": 0.5 if accelerator else 0.0,
        **{f"model.{key}": value for key, value in _SIZES[known_size].items()},
        **({} if given.keys() & {"model.hop", "model.n_fft"} else _framing(facts.sample_rate)),
    }
    if purpose == "generation":
        auto |= _for_generation(facts.train_seconds, facts.sample_rate, given, machine)
    if given.get("training.muon_rate") == 0:
        auto["training.head_rate"] = 1.0  # AdamW alone does not need a slow head
    known = {"model.sample_rate": facts.sample_rate, "model.channels": facts.channels}
    auto |= {key: value for key, value in known.items() if value is not None}
    problems = _fixed_by_data(given, auto, ("model.sample_rate", "model.channels"))
    budgeted = has_budget(given, "training")
    values = {**({} if budgeted else {"training.epochs": 1}), **auto, **given}
    if values.get("adversarial.enabled") is True and values.get("model.decoder_head") in MAGNITUDE_HEADS:
        message = (
            "discriminators judge audio, and a decoder of magnitudes trains without; leave them out, or set "
            'model.decoder_head to "directed"'
        )
        problems.append(Problem("adversarial.enabled", message, AdversarialConfig.flag("enabled")))
    built = build_sections(CODEC, values, [*problems, *unknown_keys(values)])
    config = VQTrainConfig(
        model=built[VQVAEConfig],
        training=built[TrainingConfig],
        loss=built[LossConfig],
        augment=built[AugmentConfig],
        health=built[HealthConfig],
        adversarial=built[AdversarialConfig],
    )
    if not budgeted or "training.epochs" not in given:
        epochs = auto_epochs(config, facts.train_seconds, accelerator, budgeted=budgeted)
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))
    played = passes(config, facts.train_seconds, machine.workers)
    if accelerator and not config.model.gives_magnitudes and played > PASSES_UNVARIED:
        varied = {key: value for key, value in _VARIED.items() if f"augment.{key}" not in given}
        config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, **varied))
    _check_shared(TrainingConfig, config.training.batch_size, machine)
    return Resolved(config=config, overrides=frozenset(given), size=size)


def resolve_prior(
    codec: VQVAEConfig,
    *,
    file_count: int,
    train_frames: int,
    labels: int = 0,
    overrides: Mapping[str, object],
    machine: MachineFacts = ONE_CPU,
) -> Resolved[PriorTrainConfig]:
    """The prior run's configuration, for codes of `codec` of recordings with so many labels.

    Raises ConfigError with every problem.
    """
    given, accelerator = dict(overrides), machine.accelerator
    fixed = _of_codec(codec)
    seconds = train_frames / codec.frame_rate
    if codec.purpose == "generation":
        sized = _prior_for_generation(codec, file_count, train_frames, accelerator=accelerator)
    else:
        sized = _prior_size(file_count, seconds, accelerator=accelerator)
    sized = fitting_heads(given, sized)
    auto: dict[str, object] = {
        **{f"prior.{key}": value for key, value in sized.items()},
        **fixed,
        "prior_training.batch_size": _auto_batch(PriorTrainingConfig.table, machine),
        # A narrow model takes, and on a CPU's few steps needs, a higher rate.
        "prior_training.lr": 3e-4 if accelerator else 1e-3,
        "prior_training.min_epoch_steps": _MIN_EPOCH_STEPS["prior"][accelerator],
    }
    if codec.purpose == "generation":
        auto["prior_training.variants"] = _VARIANTS
        # A GPU's passes are many: few recordings would be recited unless they are varied to the end, while a
        # CPU's few are better spent on pasts without mistakes.
        auto["prior_training.unvaried_share"] = 0.0 if accelerator and seconds < FEW_SECONDS else 0.3
        auto["prior_training.replaced_share"] = 0.1 if accelerator else 0.0
        auto["prior_training.patience"] = 0
        auto["prior.openings"] = _OPENINGS
        if not accelerator:
            auto["prior_training.variant_steps"] = max(20, round(seconds * _CPU_STEPS_PER_VARIED_SECOND))
    if given.get("prior.controls") and labels <= MOST_LABELS:
        auto["prior.labels"] = labels
    problems = _fixed_by_data(given, auto, tuple(fixed))
    budgeted = has_budget(given, "prior_training")
    values = {**({} if budgeted else {"prior_training.epochs": 1}), **auto, **given}
    built = build_sections(PRIOR, values, [*problems, *unknown_keys(values)])
    config = PriorTrainConfig(model=built[PriorConfig], training=built[PriorTrainingConfig])
    if not budgeted or "prior_training.epochs" not in given:
        epochs = auto_prior_epochs(
            config,
            train_frames,
            accelerator,
            budgeted=budgeted,
            worth_of=seconds if codec.purpose == "generation" else None,
        )
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))
    _check_shared(PriorTrainingConfig, config.training.batch_size, machine)
    if config.model.masked_share and config.training.batch_size < 2 * max(1, machine.workers):
        message = "a worker needs two windows or more, one to fill in; choose a greater batch or 0"
        raise ConfigError([Problem("prior.masked_share", message, PriorConfig.flag("masked_share"))])
    return Resolved(config=config, overrides=frozenset(given), size="")


def check_codec_of_prior(given: Mapping[str, object], codec: VQVAEConfig) -> None:
    """Raise ConfigError where `given` has settings of the prior that `codec` has otherwise."""
    fixed = _of_codec(codec)
    problems = _fixed_by_data(given, fixed, tuple(fixed))
    if problems:
        raise ConfigError(problems)


def check_shared_batch(section: type[Training], given: Mapping[str, object], machine: MachineFacts) -> None:
    """Raise ConfigError where the workers of `machine` cannot share a batch equally."""
    batch = given.get(f"{section.table}.batch_size", _auto_batch(section.table, machine))
    assert isinstance(batch, int), "the settings are checked"
    _check_shared(section, batch, machine)


def fitting_heads(given: Mapping[str, object], sized: Mapping[str, Any]) -> dict[str, Any]:
    """The prior's size with a width that fits the given number of heads, or a number that fits the width.

    Every head needs an even width; what fits none is left for the section's own check.
    """
    width, heads = given.get("prior.hidden_size"), given.get("prior.num_heads")
    if isinstance(width, int) and heads is None:
        fitting = (count for count in range(sized["num_heads"], 0, -1) if width % (2 * count) == 0)
        return {**sized, "num_heads": next(fitting, sized["num_heads"])}
    if isinstance(heads, int) and heads > 0 and width is None:
        return {**sized, "hidden_size": -(-sized["hidden_size"] // (2 * heads)) * 2 * heads}
    return dict(sized)


def has_budget(given: Mapping[str, object], table: str) -> bool:
    """Whether the training of `table` is given an end."""
    return any(given.get(f"{table}.{name}") is not None for name in BUDGET)


def _of_codec(codec: VQVAEConfig) -> dict[str, object]:
    return {
        "prior.codebook_size": codec.codebook_size,
        "prior.num_quantizers": codec.num_quantizers,
        "prior.codebook_dim": codec.codebook_dim,
    }


def dotted(config: VQTrainConfig | PriorTrainConfig) -> dict[str, object]:
    """Every setting of a configuration by its dotted key."""
    rows: dict[str, object] = {}
    for part in dataclasses.fields(config):
        section: Section = getattr(config, part.name)
        rows |= {f"{section.table}.{key}": value for key, value in dataclasses.asdict(section).items()}
    return rows


def _framing(sample_rate: int | None) -> dict[str, int]:
    """Hop and window at which there are 62 to 94 code frames a second at every rate, as at the default's."""
    usual = VQVAEConfig()
    times = 2.0 ** round(math.log2((sample_rate or usual.sample_rate) / usual.sample_rate))
    return {"model.hop": round(usual.hop * times), "model.n_fft": round(usual.n_fft * times)}


def _for_generation(
    train_seconds: float, sample_rate: int | None, given: Mapping[str, object], machine: MachineFacts
) -> dict[str, object]:
    """What a codec whose codes a prior is to learn has otherwise: few frames, and codes without phases.

    docs/measurements/2026-11-30-generation-codec.md has what was tried.
    """
    seconds_by_codes = {1024: HOUR, 512: HOUR / 12} if machine.accelerator else {}
    codes = next((codes for codes, least in seconds_by_codes.items() if train_seconds >= least), 256)
    judged = given.get("adversarial.enabled") is True
    head = given.get("model.decoder_head", "directed" if judged else "flow")
    framing = _framing(sample_rate)
    of_head: dict[str, object] = {
        "model.stride": 8,
        "model.num_quantizers": 6,
        "loss.consistency": 3.0,
        "adversarial.enabled": machine.accelerator,
    }
    if head in MAGNITUDE_HEADS:
        framing = {key: 2 * value for key, value in framing.items()}  # which tell partials apart
        of_head = {
            "model.stride": 4,
            "model.num_quantizers": 3,
            # Codes of whole latents: their components are worth less and less, and need no projections.
            "model.latent_dim": _COMPONENTS,
            "model.codebook_dim": _COMPONENTS,
            "model.codebook_learning": "kmeans",  # of latents that do not change
            "model.decoder_spread": "latents",
            "model.stereo": "mid-side",
            # It is to draw what the recordings have beside all of their codes, and nothing else.
            "model.quantizer_dropout": 0.1,
            "model.conditioning_noise": 0.3 if head == "flow" else 0.0,
            "augment.mix": 0.0,
        }
    return {
        "model.encoder_input": "magnitudes",
        "model.decoder_head": head,
        "model.codebook_size": codes,
        **({} if given.keys() & {"model.hop", "model.n_fft"} else framing),
        **of_head,
        "training.batch_size": _auto_batch(TrainingConfig.table, machine, longer=_LONGER),
        "training.window_seconds": _LONGER * TrainingConfig.window_seconds,
        "health.kept_floor": KEPT_FLOOR,
        "loss.waveform": 0.0,
        "loss.phase_hz": 0.0,
        "adversarial.start": 0.2,
        "adversarial.judged_every": 8,
        "adversarial.periods": 2,
    }


def _codebook_size(file_count: int, total_seconds: float | None) -> int:
    by_files = 64 if file_count <= 20 else 128 if file_count <= 100 else 256
    hours = (total_seconds or 0.0) / HOUR
    by_hours = 1024 if hours >= 4 else 512 if hours >= 1 else 256 if hours >= 0.25 else 0
    return max(by_files, by_hours)


def _auto_size(total_seconds: float, accelerator: bool) -> str:
    if not accelerator:
        return "tiny"
    return "base" if total_seconds >= HOUR / 30 else "small"


def _prior_size(file_count: int, total_seconds: float | None, *, accelerator: bool) -> dict[str, Any]:
    hours = (total_seconds if total_seconds is not None else 5.0 * file_count) / HOUR
    if not accelerator:
        return {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "dropout": 0.1, "context_frames": 256}
    if hours < 0.25:
        return {"hidden_size": 256, "num_layers": 6, "num_heads": 4, "dropout": 0.2, "context_frames": 512}
    if hours < 4:
        return {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "dropout": 0.15, "context_frames": 768}
    return {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "dropout": 0.1, "context_frames": 1024}


def _prior_for_generation(
    codec: VQVAEConfig, file_count: int, train_frames: int, *, accelerator: bool
) -> dict[str, Any]:
    """Wide and deep as for as many frames at the usual rate, with as many seconds of context as for as many
    seconds, and more dropout.
    """
    usual_rate = VQVAEConfig().frame_rate
    sized = _prior_size(file_count, train_frames / usual_rate, accelerator=accelerator)
    looks_back = _prior_size(file_count, train_frames / codec.frame_rate, accelerator=accelerator)
    frames = looks_back["context_frames"] * codec.frame_rate / usual_rate
    context = max(_LEAST_CONTEXT, 32 * round(frames / 32))
    return {**sized, "context_frames": context, **({"dropout": 0.3} if accelerator else {})}


def _fixed_by_data(
    given: Mapping[str, object], auto: Mapping[str, object], keys: tuple[str, ...]
) -> list[Problem]:
    return [
        Problem(key, f"{given[key]!r} does not match the data, which has {auto[key]}; leave it out")
        for key in keys
        if key in given and key in auto and given[key] != auto[key]
    ]


def _auto_batch(table: str, machine: MachineFacts, *, longer: int = 1) -> int:
    """The least batch of enough windows for each worker that every allowed number of workers can share.

    `longer`: how many usual windows are in one. Where the batch would be over twice what is wanted, it is
    left to `_check_shared` to say so.
    """
    workers = machine.workers
    wanted = _BATCH[table][machine.accelerator] // longer * max(1, workers)
    share = math.lcm(*range(machine.fewest_workers or workers, workers + 1)) if workers else 1
    batch = -(-wanted // share) * share
    return batch if batch <= 2 * wanted else wanted


def _check_shared(section: type[Section], batch: int, machine: MachineFacts) -> None:
    fewest, workers = machine.fewest_workers, machine.workers
    unequal = [count for count in range(fewest or workers, workers + 1) if batch % max(1, count)]
    if unequal:
        message = f"{batch} windows cannot be shared by {unequal[0]} workers"
        if fewest is not None:
            message += (
                f", as --num-workers {fewest}-{workers} allows; choose a narrower range or another batch"
            )
        flag = section.flag("batch_size")
        raise ConfigError([Problem(f"{section.table}.batch_size", message, flag)])
