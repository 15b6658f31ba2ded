from __future__ import annotations

import dataclasses
import json

import pytest

from distill_ray.events.records import (
    Event,
    Notice,
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    ShownSetting,
    StageProgress,
    TrainingCompleteEvent,
    VQEpochMetrics,
    VQStepMetrics,
    from_record,
    to_record,
)
from distill_ray.vqvae.health import CodeAgreement, Collapse, LevelHealth

HEALTH = LevelHealth(utilization=0.5, perplexity=7.5, dead_codes=8, entropy=0.7)
EVENTS: list[Event] = [
    RunStarted(
        kind="vqvae",
        name="n",
        output_dir="/o",
        device="cpu",
        world_size=2,
        parameters=10,
        epochs=None,
        max_minutes=1.5,
        steps_per_epoch=3,
        train_files=4,
        train_seconds=5.5,
        val_files=1,
        val_seconds=2.0,
        first_epoch=1,
        settings=(ShownSetting(name="lr", value="0.1", source="auto"),),
    ),
    StageProgress(stage="encode", done=1, total=2, note="x"),
    Notice(level="warning", message="m"),
    VQStepMetrics(
        step=1,
        epoch=1,
        epoch_step=1,
        steps_per_epoch=3,
        fraction=0.1,
        loss=2.0,
        losses={"mel": 1.0},
        lr=0.1,
        grad_norm=3.0,
        skipped_steps=0,
        steps_per_second=2.0,
        audio_seconds_per_second=8.0,
        eta_s=None,
    ),
    VQEpochMetrics(
        epoch=1,
        epochs=3,
        step=3,
        train_loss=1.0,
        val_loss=2.0,
        best_val_loss=2.0,
        best_epoch=1,
        losses={"mel": 1.0},
        val_losses={"mel": 1.1},
        codebook_health=(HEALTH, HEALTH),
        utilization_warnings=("w",),
        reseeded_codes=4,
        skipped_steps=0,
        audio_seconds_per_second=8.0,
        elapsed_s=1.0,
    ),
    TrainingCompleteEvent(
        epochs_completed=3,
        steps=9,
        final_train_loss=1.0,
        final_val_loss=2.0,
        best_val_loss=2.0,
        best_epoch=1,
        codebook_health=(HEALTH,),
        warnings=(),
        audio_seconds_per_second=8.0,
        elapsed_s=1.0,
        exit_reason="health",
        collapse=Collapse(level=1, value=0.12, reports=3, measure="utilization", floor=0.3),
        code_agreement=CodeAgreement(
            shift_eighth=(0.9,), shift_quarter=(0.8,), shift_half=(0.5,), polarity=(1.0,), gain_3db=(0.6,)
        ),
    ),
    PriorStepMetrics(
        step=1,
        epoch=1,
        epoch_step=1,
        steps_per_epoch=3,
        fraction=0.1,
        loss=2.0,
        lr=0.1,
        grad_norm=3.0,
        skipped_steps=0,
        steps_per_second=2.0,
        codes_per_second=8.0,
        eta_s=4.0,
    ),
    PriorEpochMetrics(
        epoch=1,
        epochs=None,
        step=3,
        train_loss=1.0,
        val_loss=2.0,
        val_perplexity=7.4,
        best_perplexity=7.4,
        best_epoch=1,
        bits_per_second=900.0,
        is_memorizing=False,
        memorization_message="",
        skipped_steps=0,
        codes_per_second=8.0,
        elapsed_s=1.0,
    ),
    PriorTrainingCompleteEvent(
        epochs_trained=1,
        steps=3,
        final_perplexity=7.4,
        best_perplexity=7.4,
        best_epoch=1,
        bits_per_second=900.0,
        memorization_warnings=("w",),
        codes_per_second=8.0,
        elapsed_s=1.0,
        exit_reason="cancelled",
        memorization={"verdict": "memorised", "is_memorizing": True, "gap": 0.5, "frames": 3, "rate": None},
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_json(event: Event) -> None:
    record = json.loads(json.dumps(to_record(event)))
    assert record["event"] == type(event).__name__
    assert from_record(record) == event
    assert from_record({**record, "added_later": 1, "time": 2.0}) == event


@pytest.mark.parametrize(
    "record", [{}, {"event": "Nonsense"}, {"event": "Notice"}, {"event": "VQEpochMetrics", "epoch": 1}]
)
def test_what_is_no_event_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not an event|damaged"):
        from_record(record)


@pytest.mark.parametrize("sentence", ["", "collapsed level 1: utilization 0.12 < 0.30 for 3 reports"])
def test_an_end_that_was_recorded_with_a_sentence_still_loads(sentence: str) -> None:
    (ended,) = (event for event in EVENTS if isinstance(event, TrainingCompleteEvent))
    loaded = from_record({**to_record(ended), "collapse": sentence})
    assert loaded == dataclasses.replace(ended, collapse=None)
