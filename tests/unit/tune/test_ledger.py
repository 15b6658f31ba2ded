from __future__ import annotations

import dataclasses

import pytest

from distill_ray.config.health import HealthConfig
from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import (
    DepthScore,
    Event,
    TrainingCompleteEvent,
    TrialUpdate,
    VQEpochMetrics,
    to_record,
)
from distill_ray.tune.ledger import Ledger
from distill_ray.tune.trial import TrialRecord, make_spec
from distill_ray.vqvae.health import Collapse, EpochHealth, HealthRule, LevelHealth

SWEEP = SweepConfig(codebook_sizes=(16,), rvq_levels=(2, 4), max_kbps=0.6)
SPEC = make_spec("search", 16, (2, 4), {})
TRIAL = SPEC.id
GOOD = LevelHealth(utilization=1.0, perplexity=16.0, dead_codes=0, entropy=1.0)
BAD = LevelHealth(utilization=0.25, perplexity=4.0, dead_codes=12, entropy=0.5)

COLLAPSE = Collapse(level=3, value=0.12, reports=3, measure="utilization", floor=0.3)


class Desk:
    """A ledger of one trial on two GPUs, whose clock is set by hand."""

    def __init__(self, *records: TrialRecord) -> None:
        self.now = 100.0
        self.saved: list[TrialRecord] = []
        self.told: list[Event] = []
        self.ledger = Ledger(
            records,
            SWEEP,
            HealthRule.of(HealthConfig()),
            gpus=2.0,
            save=self.saved.append,
            tell=self.told.append,
            clock=lambda: self.now,
        )
        self.ledger.announce()
        self.ledger.add(SPEC, frame_rate=62.5)

    @property
    def update(self) -> TrialUpdate:
        last = self.told[-1]
        assert isinstance(last, TrialUpdate)
        return last

    def begin(self) -> None:
        self.ledger.begun(TRIAL, "GPU 0")

    def epoch(self, number: int, val_loss: float, best: int, *health: LevelHealth) -> None:
        self.now += 10.0
        event = VQEpochMetrics(
            epoch=number,
            epochs=3,
            step=number * 5,
            train_loss=1.0,
            val_loss=val_loss,
            best_val_loss=0.0,
            best_epoch=best,
            losses={},
            val_losses={},
            codebook_health=health,
            utilization_warnings=(),
            reseeded_codes=0,
            skipped_steps=0,
            audio_seconds_per_second=1.0,
            elapsed_s=1.0,
            depth_scores=scores(val_loss),
        )
        self.ledger.take_event(TRIAL, to_record(event))

    def end(self, reason: str, *, best: int = 1, collapse: Collapse | None = None) -> TrialRecord:
        event = TrainingCompleteEvent(
            epochs_completed=2,
            steps=10,
            final_train_loss=1.0,
            final_val_loss=1.0,
            best_val_loss=7.0,
            best_epoch=best,
            codebook_health=(),
            warnings=(),
            audio_seconds_per_second=1.0,
            elapsed_s=1.0,
            exit_reason=reason,
            depth_scores=scores(7.0),
            collapse=collapse,
        )
        self.ledger.take_event(TRIAL, to_record(event))
        self.ledger.ended(TRIAL, [EpochHealth(levels=(each, each)) for each in (GOOD, BAD)])
        return self.saved[-1]


def scores(val_loss: float) -> tuple[DepthScore, ...]:
    return (
        DepthScore(levels=2, val_loss=val_loss + 1, mel=0.5),
        DepthScore(levels=4, val_loss=val_loss, mel=0.25),
    )


def test_a_trial_from_its_beginning_to_its_end() -> None:
    desk = Desk()
    assert (desk.update.state, desk.update.kbps) == ("pending", 1.0)
    desk.begin()
    desk.epoch(1, 7.0, 1, GOOD, BAD)
    # 4 levels are over the limit of 0.6 kbit/s, so the trial is compared by its score at 2.
    assert (desk.update.val_loss, desk.update.mel, desk.update.objective) == (7.0, 0.25, 8.0)
    assert (desk.update.worst_level, desk.update.worst_utilization) == (1, 0.25)
    assert (desk.update.gpu_seconds, desk.update.elapsed_s, desk.update.device) == (20.0, 10.0, "GPU 0")
    desk.epoch(2, 9.0, 1, GOOD, GOOD)
    assert (desk.update.epoch, desk.update.val_loss, desk.update.worst_utilization) == (2, 7.0, 1.0)
    desk.now += 5.0
    record = desk.end("completed")
    assert (record.state, record.reason, record.epochs, record.steps) == ("completed", "", 2, 10)
    assert (record.elapsed_s, record.gpu_seconds, record.attempts) == (25.0, 50.0, 1)
    assert record.codebook_health == (GOOD, GOOD)  # that of the best epoch
    assert desk.ledger.finished() == (record,)


def test_a_collapse_names_its_level() -> None:
    desk = Desk()
    desk.begin()
    desk.epoch(1, 7.0, 1, GOOD, GOOD)
    desk.epoch(2, 9.0, 1, GOOD, BAD)
    record = desk.end("health", collapse=COLLAPSE)
    assert (record.state, record.collapsed_level) == ("collapsed", 3)
    assert record.reason == "collapsed level 3: utilization 0.12 < 0.30 for 3 reports"
    # The best epoch was healthy; what is shown is the epoch that the rule ended it for.
    assert record.codebook_health == (GOOD, GOOD)
    assert (desk.update.worst_level, desk.update.worst_utilization) == (0, 0.25)
    assert (record.worst_level, record.worst_utilization) == (0, 0.25)  # also after a resume


@pytest.mark.parametrize(
    ("asked", "reason", "state"),
    [
        ((), "cancelled", "cancelled"),
        (("prune",), "cancelled", "pruned"),
        (("prune",), "completed", "completed"),  # it was done when the scheduler asked
        (("prune",), "health", "collapsed"),
    ],
)
def test_a_stop_belongs_to_who_asked_for_it(asked: tuple[str, ...], reason: str, state: str) -> None:
    desk = Desk()
    desk.begin()
    if asked:
        desk.ledger.pruned(TRIAL)
    record = desk.end(reason)
    assert record.state == state
    assert record.reason == ("ended early by asha" if state == "pruned" else "")
    assert bool(desk.ledger.finished()) == (state != "cancelled")


def test_a_trial_that_the_guard_ended_has_no_last_event() -> None:
    desk = Desk()
    desk.begin()
    collapse = Collapse(level=1, value=0.1, reports=3, measure="utilization", floor=0.3)
    desk.ledger.guarded(TRIAL, collapse)
    desk.ledger.ended(TRIAL, [])
    record = desk.saved[-1]
    assert (record.state, record.collapsed_level) == ("collapsed", 1)
    assert record.reason == "collapsed level 1: utilization 0.10 < 0.30 for 3 reports"


def test_a_failure_is_told_in_the_trials_own_words_or_else_in_rays() -> None:
    desk = Desk()
    desk.begin()
    desk.now += 10.0
    desk.ledger.failed(TRIAL, "out of memory")
    desk.ledger.retrying(TRIAL, "a worker process was killed")
    assert (desk.update.state, desk.update.reason) == ("retrying", "out of memory")
    desk.now += 90.0  # no process has it meanwhile
    desk.begin()
    desk.now += 3.0
    desk.ledger.errored(TRIAL, "a worker process was killed")
    record = desk.saved[-1]
    assert (record.state, record.reason) == ("failed", "a worker process was killed")
    assert (record.attempts, record.elapsed_s, record.gpu_seconds) == (2, 13.0, 26.0)


def test_a_resumed_search_adds_to_the_times_of_an_unfinished_trial() -> None:
    before = TrialRecord(
        spec=SPEC, state="running", epochs=1, frame_rate=62.5, elapsed_s=40.0, gpu_seconds=80.0
    )
    desk = Desk(before)
    assert desk.ledger.finished() == ()
    told = [event.state for event in desk.told if isinstance(event, TrialUpdate)]
    assert told == ["pending", "pending"]  # before it is begun, and as it is
    assert desk.saved[-1] == dataclasses.replace(before, state="pending")
    desk.begin()
    desk.now += 2.0
    record = desk.end("completed")
    assert (record.attempts, record.elapsed_s, record.gpu_seconds) == (2, 42.0, 84.0)
    # The driver that was killed had not heard of the best epoch; the trial's end and its checkpoint have it.
    assert (record.val_loss, record.depth_scores) == (7.0, scores(7.0))
    assert record.codebook_health == (GOOD, GOOD)


def test_finished_trials_say_how_they_stand_and_again_when_a_better_one_comes() -> None:
    def done(codes: int, loss: float) -> TrialRecord:
        return TrialRecord(
            spec=make_spec("search", codes, (2,), {}),
            state="completed",
            frame_rate=62.5,
            depth_scores=(DepthScore(levels=2, val_loss=loss, mel=1.0),),
            codebook_health=(GOOD, GOOD),
        )

    def standing(events: list[Event]) -> list[tuple[str, str]]:
        return [(event.trial, event.verdict) for event in events if isinstance(event, TrialUpdate)]

    desk = Desk(done(16, 10.0), done(8, 12.0))
    assert standing(desk.told)[:2] == [("k16-q2", "best so far"), ("k8-q2", "20% behind the best")]
    better = done(4, 8.0)
    desk.ledger.add(better.spec, frame_rate=62.5)
    desk.told.clear()
    desk.ledger._change(desk.ledger._trials["k4-q2"], state="completed", **scored(better))
    assert standing(desk.told) == [
        ("k4-q2", "best so far"),
        ("k16-q2", "25% behind the best"),
        ("k8-q2", "50% behind the best"),
    ]


def scored(record: TrialRecord) -> dict[str, object]:
    return {"depth_scores": record.depth_scores, "codebook_health": record.codebook_health}
