"""A short codec run and a short prior run as events, and consoles that record."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from distill_ray.training.events import (
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    ShownSetting,
    TrainingCompleteEvent,
    VQEpochMetrics,
    VQStepMetrics,
)
from distill_ray.vqvae.health import LevelHealth

LOW_LEVEL = "RVQ level 2 uses 10% of its codes"


@pytest.fixture
def terminal() -> Console:
    """A colour terminal 120 columns wide; `terminal.file.getvalue()` is what it shows."""
    return Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=120)


@pytest.fixture
def pipe() -> Console:
    """A file: no colour, no cursor movement."""
    return Console(file=io.StringIO(), width=110)


@pytest.fixture
def health() -> tuple[LevelHealth, ...]:
    """One level of each colour."""
    return tuple(
        LevelHealth(utilization=used, perplexity=perplexity, dead_codes=dead, entropy=entropy)
        for used, perplexity, dead, entropy in (
            (0.5, 40.25, 32, 0.912),
            (0.3, 20.0, 45, 0.7),
            (0.1, 4.0, 58, 0.333),
        )
    )


@pytest.fixture
def started(tmp_path) -> Callable[..., RunStarted]:
    def make(**changes: object) -> RunStarted:
        facts = {
            "kind": "vqvae",
            "name": "birds",
            "output_dir": str(tmp_path / "run"),
            "device": "cpu",
            "world_size": 2,
            "parameters": 910_000,
            "epochs": 3,
            "max_minutes": None,
            "steps_per_epoch": 20,
            "train_files": 12,
            "train_seconds": 311.0,
            "val_files": 1,
            "val_seconds": 20.0,
            "first_epoch": 1,
            "settings": (
                ShownSetting(name="codebook_size", value="64", source="auto"),
                ShownSetting(name="lr", value="0.002", source="override"),
            ),
        }
        return RunStarted(**{**facts, **changes})

    return make


@pytest.fixture
def step() -> Callable[..., VQStepMetrics]:
    def make(number: int = 5, **changes: object) -> VQStepMetrics:
        facts = {
            "step": number,
            "epoch": 1,
            "epoch_step": number,
            "steps_per_epoch": 20,
            "fraction": number / 60,
            "loss": 123.4,
            "losses": {"mel": 1.234, "waveform": 0.05},
            "lr": 1e-3,
            "grad_norm": 3.25,
            "skipped_steps": 0,
            "steps_per_second": 1.75,
            "audio_seconds_per_second": 33.2,
            "eta_s": 75.0,
        }
        return VQStepMetrics(**{**facts, **changes})

    return make


@pytest.fixture
def epoch(health) -> Callable[..., VQEpochMetrics]:
    def make(number: int = 1, **changes: object) -> VQEpochMetrics:
        facts = {
            "epoch": number,
            "epochs": 3,
            "step": 20 * number,
            "train_loss": 99.0,
            "val_loss": 101.5,
            "best_val_loss": 100.25,
            "best_epoch": 1,
            "losses": {"mel": 1.0},
            "val_losses": {"mel": 1.1},
            "codebook_health": health,
            "utilization_warnings": (LOW_LEVEL,),
            "reseeded_codes": 4,
            "skipped_steps": 0,
            "audio_seconds_per_second": 33.0,
            "elapsed_s": 65.0,
        }
        return VQEpochMetrics(**{**facts, **changes})

    return make


@pytest.fixture
def complete(health) -> TrainingCompleteEvent:
    return TrainingCompleteEvent(
        epochs_completed=3,
        steps=60,
        final_train_loss=88.5,
        final_val_loss=91.25,
        best_val_loss=90.75,
        best_epoch=2,
        codebook_health=health,
        warnings=(LOW_LEVEL,),
        audio_seconds_per_second=34.5,
        elapsed_s=3725.0,
        exit_reason="completed",
    )


@pytest.fixture
def prior_step() -> PriorStepMetrics:
    return PriorStepMetrics(
        step=7,
        epoch=1,
        epoch_step=7,
        steps_per_epoch=10,
        fraction=0.25,
        loss=3.5,
        lr=3e-4,
        grad_norm=0.5,
        skipped_steps=2,
        steps_per_second=4.0,
        codes_per_second=12_345.0,
        eta_s=None,
    )


@pytest.fixture
def prior_epoch() -> PriorEpochMetrics:
    return PriorEpochMetrics(
        epoch=2,
        epochs=None,
        step=20,
        train_loss=3.25,
        val_loss=3.5,
        val_perplexity=33.1,
        best_perplexity=31.5,
        best_epoch=1,
        bits_per_second=3480.0,
        is_memorizing=True,
        memorization_message="the prior repeats its training data",
        skipped_steps=0,
        codes_per_second=12_000.0,
        elapsed_s=30.0,
    )


@pytest.fixture
def prior_complete() -> PriorTrainingCompleteEvent:
    return PriorTrainingCompleteEvent(
        epochs_trained=2,
        steps=20,
        final_perplexity=33.1,
        best_perplexity=31.5,
        best_epoch=1,
        bits_per_second=3480.0,
        memorization_warnings=("epoch 2: the prior repeats its training data",),
        codes_per_second=12_000.0,
        elapsed_s=30.0,
        exit_reason="completed",
    )
