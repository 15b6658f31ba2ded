"""A short codec run and a short prior run as events, and consoles that record."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
from rich.console import Console

from distill_ray.events.records import (
    CandidateRow,
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    ShownSetting,
    SweepCompleteEvent,
    SweepStarted,
    TrainingCompleteEvent,
    TrialUpdate,
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


@pytest.fixture
def sweep_started(tmp_path) -> SweepStarted:
    return SweepStarted(
        name="birds",
        output_dir=str(tmp_path / "sweep"),
        plan="depth",
        search="grid",
        objective="reconstruction",
        objective_definition="lowest held-out loss within the bit rate",
        trials=3,
        finalists=2,
        concurrent=2,
        gpus_per_trial=0.5,
        workers_per_trial=1,
        max_kbps=6.0,
        settings=(ShownSetting(name="size", value="tiny", source="override"),),
    )


@pytest.fixture
def trial() -> Callable[..., TrialUpdate]:
    """An update of the trial with K codes at eight levels; figures where they are given."""

    def make(codes: int, state: str = "running", **changes: object) -> TrialUpdate:
        facts = {
            "trial": f"k{codes}-q8",
            "round": "search",
            "state": state,
            "codebook_size": codes,
            "rvq_levels": 8,
            "kbps": 8 * math.log2(codes) * 86.1328125 / 1000,
            "epochs": 10,
        }
        return TrialUpdate(**{**facts, **changes})

    return make


@pytest.fixture
def sweep(sweep_started, trial) -> list[object]:
    """A search as its driver tells it: one trial completes, one collapses, one still runs."""
    figures = {"val_loss": 20.5, "mel": 2.25, "objective": 21.5, "worst_level": 7, "worst_utilization": 0.42}
    low = {"val_loss": 19.5, "mel": 2.0, "objective": 20.0, "worst_level": 3, "worst_utilization": 0.12}
    return [
        sweep_started,
        *(trial(codes, "pending") for codes in (64, 256, 1024)),
        trial(64, device="cuda:0"),
        trial(1024, device="cuda:0"),
        trial(1024, epoch=4, fraction=0.4, gpu_seconds=9.0, **low),
        trial(64, epoch=5, fraction=0.5, gpu_seconds=12.0, **figures),
        trial(
            1024,
            "collapsed",
            reason="collapsed level 3: utilization 0.12 < 0.30 for 3 reports",
            epoch=5,
            gpu_seconds=11.0,
            **low,
        ),
        trial(256, epoch=1, fraction=0.1),
        trial(64, "completed", epoch=10, fraction=1.0, gpu_seconds=1200.0, **figures),
    ]


@pytest.fixture
def candidates() -> tuple[CandidateRow, ...]:
    def row(trial: str, codes: int, levels: int, kbps: float, loss: float, **changes: object) -> CandidateRow:
        facts = {
            "trial": trial,
            "codebook_size": codes,
            "rvq_levels": levels,
            "kbps": kbps,
            "objective": loss,
            "val_loss": loss,
            "mel": loss / 10,
            "eligible": True,
            "reason": "",
            "on_front": True,
            "chosen": False,
        }
        return CandidateRow(**{**facts, **changes})

    return (
        row("k64-q8", 64, 4, 2.067, 22.25, reason="cut short: its trial has more levels"),
        row("k1024-q8", 1024, 8, 6.891, 19.5, eligible=False, reason="level [3] collapsed", on_front=False),
        row("k64-q8", 64, 8, 4.134, 20.5, reason="best", chosen=True),
    )


@pytest.fixture
def sweep_complete(candidates) -> SweepCompleteEvent:
    return SweepCompleteEvent(
        exit_reason="completed",
        chosen="k64-q8",
        candidates=candidates,
        gpu_seconds=1250.0,
        elapsed_s=1265.0,
    )
