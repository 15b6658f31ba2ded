"""What is known of a search's trials: from what they say to records on disk and updates on screen.

The driver's only bookkeeping. `driver.py` tells it what trials and Ray Tune say; a resumed search begins with
the records that it wrote (`folder.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import (
    CandidateRow,
    CodecJudged,
    Event,
    RunStarted,
    StageProgress,
    TrainingCompleteEvent,
    TrialUpdate,
    VQEpochMetrics,
    VQStepMetrics,
    from_record,
)
from distill_ray.tune.ranking import best_generated, candidates, trial_objective
from distill_ray.tune.trial import FINISHED, TrialRecord, TrialSpec
from distill_ray.vqvae.health import Collapse, EpochHealth, HealthRule, with_gains

PRUNED = "ended early by asha"
_STATES = {
    "completed": "completed",
    "early_stop": "completed",
    "health": "collapsed",
    "cancelled": "cancelled",
}


@dataclass(kw_only=True)
class _Trial:
    """A trial of this session. `record` is what is kept; the rest is for the leaderboard and the clock."""

    record: TrialRecord
    epochs: int | None = None
    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    fraction: float = 0.0
    eta_s: float | None = None
    device: str = ""
    since: float | None = None
    completed: TrainingCompleteEvent | None = None
    judged: CodecJudged | None = None
    stage: str = ""
    pruned: bool = False
    collapse: Collapse | None = None
    failure: str = ""
    row: CandidateRow | None = None


class Ledger:
    """The trials of a search, which `rule` judges. `gpus`: of a trial. `save` keeps a record, `tell` is the
    search's listener.
    """

    def __init__(
        self,
        records: Iterable[TrialRecord],
        sweep: SweepConfig,
        rule: HealthRule,
        *,
        gpus: float,
        save: Callable[[TrialRecord], None],
        tell: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweep = sweep
        self._rule = rule
        self._gpus = gpus
        self._save = save
        self._tell = tell
        self._clock = clock
        self._steps = 0
        self._first_round: int | None = None
        self._trials = {record.spec.id: _Trial(record=_waiting(record)) for record in records}

    def records(self) -> tuple[TrialRecord, ...]:
        """Every trial, in the order in which they were begun; those of an earlier part by round and id."""
        return tuple(trial.record for trial in self._trials.values())

    def finished(self) -> tuple[TrialRecord, ...]:
        """Those that are not to be run again."""
        return tuple(record for record in self.records() if record.state in FINISHED)

    def announce(self) -> None:
        """Tell what is known of every trial, as a resumed search begins."""
        self._rank()
        for trial in self._trials.values():
            self._tell(self._update(trial))

    def add(self, spec: TrialSpec, *, frame_rate: float) -> None:
        """A trial that is going to run, be it again."""
        if spec.id not in self._trials:
            record = TrialRecord(spec=spec, state="pending", frame_rate=frame_rate, attempts=0)
            self._trials[spec.id] = _Trial(record=record)
        self._changed(self._trials[spec.id])

    def begun(self, trial: str, device: str) -> None:
        """Its process has begun."""
        item = self._trials[trial]
        self._stop_clock(item)
        item.device, item.since, item.failure, item.completed = device, self._clock(), "", None
        item.eta_s = None
        item.judged = None
        self._change(item, state="running", reason="", attempts=item.record.attempts + 1)

    def take_event(self, trial: str, record: Mapping[str, Any]) -> None:
        """An event of its loop."""
        item, event = self._trials[trial], from_record(record)
        if isinstance(event, RunStarted):
            if event.kind == "vqvae":
                item.epochs = event.epochs
            item.stage = "" if event.kind == "vqvae" else "prior"
        elif isinstance(event, VQStepMetrics):
            item.fraction, item.eta_s = event.fraction, event.eta_s
            item.epoch, item.step, item.steps_per_epoch = event.epoch, event.step, event.steps_per_epoch
            self._tell(self._update(item))
        elif isinstance(event, VQEpochMetrics):
            self._count_time(item)
            fields: dict[str, object] = {
                "epochs": event.epoch,
                "steps": event.step,
                "newest_health": event.codebook_health,
            }
            if event.best_epoch == event.epoch:
                fields |= {
                    "val_loss": event.val_loss,
                    "depth_scores": event.depth_scores,
                    "codebook_health": event.codebook_health,
                }
            self._change(item, **fields)
        elif isinstance(event, TrainingCompleteEvent):
            item.completed = event
            item.fraction = 1.0 if event.exit_reason == "completed" else item.fraction
        elif isinstance(event, StageProgress):
            if event.stage != item.stage:
                item.stage = event.stage
                self._tell(self._update(item))
        elif isinstance(event, CodecJudged):
            item.judged = event
            self._change(
                item,
                prior_bits_per_second=event.prior_bits_per_second,
                histogram_bits_per_second=event.histogram_bits_per_second,
                generated=event.scores,
                copied=event.copied,
            )

    def say_steps(self, steps: int) -> None:
        """Every trial makes so many."""
        self._steps = steps

    def say_trials(self, trials: int) -> None:
        """The first round has so many after all."""
        self._first_round = trials

    def has_winner(self) -> bool:
        """Whether one of those that have finished could be chosen."""
        return any(item.row is not None and item.row.chosen for item in self._trials.values())

    def failed(self, trial: str, message: str) -> None:
        """Its loop has raised; `retrying` or `errored` follows."""
        self._trials[trial].failure = message

    def pruned(self, trial: str) -> None:
        """The scheduler has asked it to stop."""
        self._trials[trial].pruned = True

    def guarded(self, trial: str, collapse: Collapse) -> None:
        """The outer guard of the health rule ends it."""
        self._trials[trial].collapse = collapse

    def retrying(self, trial: str, reason: str) -> None:
        """An attempt has failed, and there is another one."""
        item = self._trials[trial]
        self._stop_clock(item)
        self._change(item, state="retrying", reason=item.failure or reason)

    def errored(self, trial: str, reason: str) -> None:
        """The last attempt has failed."""
        item = self._trials[trial]
        self._stop_clock(item)
        self._change(item, state="failed", reason=item.failure or reason)

    def ended(self, trial: str, history: Sequence[EpochHealth]) -> None:
        """Its process is done with it. `history`: the health of each epoch in its checkpoint."""
        item = self._trials[trial]
        self._stop_clock(item)
        done = item.completed
        state, collapse = "cancelled", None
        fields: dict[str, object] = {}
        if done is not None:
            state, collapse = _STATES[done.exit_reason], done.collapse
            fields = {"epochs": done.epochs_completed, "steps": done.steps}
            if 1 <= done.best_epoch <= len(history):
                # Also what a driver that was killed did not live to hear.
                fields |= {
                    "depth_scores": done.depth_scores,
                    "val_loss": done.best_val_loss,
                    "codebook_health": history[done.best_epoch - 1].levels,
                    "newest_health": history[-1].levels,
                }
        state, fields = self._judged(item, state, fields)
        if item.collapse is not None and state == "cancelled":
            state, collapse = "collapsed", item.collapse
        elif item.pruned and state == "cancelled":
            state, fields["reason"] = "pruned", PRUNED
        if collapse is not None:
            fields |= {"reason": collapse.reason, "collapsed_level": collapse.level}
        self._change(item, **{"state": state, "reason": "", "collapsed_level": None, **fields})

    def _judged(self, item: _Trial, state: str, fields: dict[str, object]) -> tuple[str, dict[str, object]]:
        """How a trial ended whose codec did so well, by what came of its prior and its sounds."""
        if state != "completed" or self._sweep.objective != "generation":
            return state, fields
        judged = item.judged
        if judged is None:
            return "cancelled", fields  # between its codec and the judge's word; it goes on there
        health = fields.get("codebook_health", item.record.codebook_health)
        assert isinstance(health, tuple)
        if judged.gains and len(judged.gains) == len(health):
            fields["codebook_health"] = with_gains(health, judged.gains)
        if judged.reason:
            return "collapsed", {
                **fields,
                "reason": judged.reason,
                "collapsed_level": judged.collapsed_level,
            }
        return state, fields

    def rated(self, trial: str, bits_per_second: float) -> None:
        """Its short prior has been trained."""
        self._change(self._trials[trial], prior_bits_per_second=bits_per_second)

    def objective(self, record: TrialRecord) -> float | None:
        """What the trial is compared with others by."""
        if self._sweep.objective == "generation":
            best = best_generated(record, self._sweep)
            return None if best is None else best.generated
        spec = record.spec
        return trial_objective(record.depth_scores, self._sweep, spec.codebook_size, record.frame_rate)

    def _change(self, item: _Trial, **fields: object) -> None:
        item.record = replace(item.record, **fields)  # type: ignore[arg-type]
        self._changed(item)

    def _changed(self, item: _Trial) -> None:
        self._save(item.record)
        others = self._rank() if item.record.state in FINISHED else []
        self._tell(self._update(item))
        for other in others:
            if other is not item:
                self._tell(self._update(other))

    def _rank(self) -> list[_Trial]:
        """Rank what has finished; the trials of which there is other news than before."""
        rows: dict[str, list[CandidateRow]] = {}
        for row in candidates(self.finished(), self._sweep, self._rule):
            rows.setdefault(row.trial, []).append(row)
        changed = []
        for item in self._trials.values():
            before, item.row = item.row, self._row_of(item.record, rows.get(item.record.spec.id, []))
            if item.row != before:
                changed.append(item)
        return changed

    def _row_of(self, record: TrialRecord, rows: Sequence[CandidateRow]) -> CandidateRow | None:
        """The row that stands for the trial: the chosen one, else that of the depth it is compared by."""
        compared_by = self.objective(record)
        return min(rows, key=lambda row: (not row.chosen, row.objective != compared_by), default=None)

    def _count_time(self, item: _Trial) -> None:
        if item.since is None:
            return
        now = self._clock()
        spent, item.since = now - item.since, now
        item.record = replace(
            item.record,
            elapsed_s=item.record.elapsed_s + spent,
            gpu_seconds=item.record.gpu_seconds + spent * self._gpus,
        )

    def _stop_clock(self, item: _Trial) -> None:
        self._count_time(item)
        item.since = None

    def _update(self, item: _Trial) -> TrialUpdate:
        record, spec = item.record, item.record.spec
        running = self._clock() - item.since if item.since is not None else 0.0
        row = item.row
        judged = best_generated(record, self._sweep) if row is None else row
        return TrialUpdate(
            trial=spec.id,
            round=spec.round,
            state=record.state,
            codebook_size=spec.codebook_size,
            rvq_levels=spec.rvq_levels,
            kbps=record.kbps,
            reason=record.reason,
            epoch=max(record.epochs, item.epoch) if record.state == "running" else record.epochs,
            epochs=item.epochs or self._epochs(item),
            fraction=1.0 if record.state in FINISHED else item.fraction,
            val_loss=record.val_loss,
            mel=record.mel,
            objective=self.objective(record) if row is None else row.objective,
            worst_level=record.worst_level,
            worst_utilization=record.worst_utilization,
            worst_kept=record.worst_kept,
            stage=item.stage if record.state == "running" else "",
            below_histogram=record.below_histogram,
            decoded=None if judged is None else judged.decoded,
            generated=None if judged is None else judged.generated,
            gpu_seconds=record.gpu_seconds + running * self._gpus,
            elapsed_s=record.elapsed_s + running,
            device=item.device,
            eta_s=item.eta_s if record.state == "running" else None,
            verdict="" if row is None else "best so far" if row.chosen else row.reason,
            eligible=row is None or row.eligible,
            trials=self._first_round,
            passes=max(record.steps, item.step) / item.steps_per_epoch if item.steps_per_epoch else None,
        )

    def _epochs(self, item: _Trial) -> int | None:
        """How many there are in the steps of a trial; the last one may be cut."""
        if not self._steps or not item.steps_per_epoch:
            return None
        return math.ceil(self._steps / item.steps_per_epoch)


def _waiting(record: TrialRecord) -> TrialRecord:
    """A record that an earlier driver left: nothing runs yet, whatever did when that one ended."""
    return record if record.state in FINISHED else replace(record, state="pending", reason="")
