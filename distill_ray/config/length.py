"""How long a training is: the steps of an epoch, passes through a corpus, and the end where none was given.

`resolve.py` asks while it chooses settings, the trainings once they run.
"""

from __future__ import annotations

import math

from distill_ray.config.prior import PriorTrainConfig
from distill_ray.config.vqvae import VECTORS_PER_CODE, VQTrainConfig

# Steps of a run for which neither epochs nor minutes were given: minutes on a GPU, some more on two cores.
_AUTO_STEPS = {"vqvae": {True: 10_000, False: 2_000}, "prior": {True: 8_000, False: 600}}

# By held-out losses of 1 to 47 minutes over 300 s of a GPU (ARCHITECTURE.md, "How long to train"): varied in
# speed and timbre a corpus is worth some 6,000 passes, and is better varied from about 150 passes on. What
# draws spectra learns those of the corpus, unvaried, and is best within 200.
PASSES_UNVARIED, _MOST_PASSES, _MOST_DRAWN_PASSES = 150, 6_000, 400
_LEAST_STEPS = 1_000  # however little audio there is, and however many workers share a step
# Priors of codes for generation: trained on further than held-out cost says, up to where they begin to give
# recordings back (docs/measurements/2026-11-30-longer-priors.md), which is sooner where there are few.
_MOST_PRIOR_PASSES, _MOST_PASSES_OF_FEW, _LEAST_PRIOR_STEPS = 1_300, 900, 500
FEW_SECONDS = 600.0
"""Recordings of less in all are soon learnt by heart."""
GPU_PACE = 4_000.0
"""Seconds of audio that a GPU trains a codec on in a second, about."""


def steps_per_epoch(config: VQTrainConfig, train_seconds: float) -> int:
    """One pass over the corpus, and enough steps that health can be measured."""
    one_pass = math.ceil(_pass_steps(config, train_seconds))
    return max(one_pass, measurable_steps(config), config.training.min_epoch_steps)


def measurable_steps(config: VQTrainConfig) -> int:
    """Steps after which each code of each level has had 50 vectors to be used for, on average."""
    model = config.model
    # The share of the windows that quantiser dropout leaves to the last level.
    deepest = 1.0 - model.quantizer_dropout * (1.0 - 1.0 / model.num_quantizers)
    vectors = config.training.batch_size * config.window_frames * deepest
    return math.ceil(VECTORS_PER_CODE * model.codebook_size / vectors)


def prior_steps_per_epoch(config: PriorTrainConfig, train_frames: int) -> int:
    """One pass over the codes, in windows of a training step."""
    return max(math.ceil(_prior_pass_steps(config, train_frames)), config.training.min_epoch_steps)


def auto_epochs(
    config: VQTrainConfig, train_seconds: float, accelerator: bool, *, budgeted: bool
) -> int | None:
    """Epochs of a run for which none were given; on a GPU as many as a corpus is worth at most."""
    steps = math.inf if budgeted else _AUTO_STEPS["vqvae"][accelerator]
    if accelerator:
        most = _MOST_DRAWN_PASSES if config.model.gives_magnitudes else _MOST_PASSES
        steps = min(steps, max(_LEAST_STEPS, most * _pass_steps(config, train_seconds)))
    return _epochs_of(steps, steps_per_epoch(config, train_seconds))


def auto_prior_epochs(
    config: PriorTrainConfig,
    train_frames: int,
    accelerator: bool,
    *,
    budgeted: bool,
    worth_of: float | None,
) -> int | None:
    """Epochs of a prior for which none were given; at most as many as `worth_of` seconds of recordings are
    worth.
    """
    steps = math.inf if budgeted else _AUTO_STEPS["prior"][accelerator]
    if worth_of is not None:
        most = _MOST_PASSES_OF_FEW if worth_of < FEW_SECONDS else _MOST_PRIOR_PASSES
        steps = min(steps, max(_LEAST_PRIOR_STEPS, most * _prior_pass_steps(config, train_frames)))
    return _epochs_of(steps, prior_steps_per_epoch(config, train_frames))


def _epochs_of(steps: float, per_epoch: int) -> int | None:
    """That make so many steps; None for steps without end."""
    return None if steps == math.inf else max(1, math.ceil(steps / per_epoch))


def passes(config: VQTrainConfig, train_seconds: float, workers: int) -> float:
    """How often GPUs will have been through the corpus at the end of the budget."""
    training, ends = config.training, [math.inf]
    if training.epochs is not None:
        ends.append(
            training.epochs * steps_per_epoch(config, train_seconds) / _pass_steps(config, train_seconds)
        )
    if training.max_minutes is not None:
        ends.append(60 * training.max_minutes * GPU_PACE * max(1, workers) / train_seconds)
    return min(ends)


def _pass_steps(config: VQTrainConfig, train_seconds: float) -> float:
    """Steps that take as much audio as there is."""
    return train_seconds / (config.training.batch_size * config.training.window_seconds)


def _prior_pass_steps(config: PriorTrainConfig, train_frames: int) -> float:
    """Steps that take as many code frames as there are."""
    return train_frames / (config.training.batch_size * config.model.training_frames)
