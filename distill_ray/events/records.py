"""What a run says while it goes: small frozen records, standard library only.

The loops (`training/vqvae.py`, `training/prior.py`) create them, a `Worker` carries them, and whoever
listens (the JSON-lines log, `display/`, a submitted job's client) reads them. `to_record` and `from_record`
turn them into JSON-able dictionaries and back, so that one renderer serves local and remote runs.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.restoring import built
from distill_ray.vqvae.health import CodeAgreement, Collapse, LevelHealth


@dataclass(frozen=True, kw_only=True)
class ShownSetting:
    """One line of a run's summary; `source` is "auto" or "override"."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The first event of a training run. `kind`: "vqvae" or "prior". `epochs` is None where only time ends
    the run; with both, what comes first does. `uri`: where `output_dir` appears, where that is elsewhere.
    """

    kind: str
    name: str
    output_dir: str
    device: str
    world_size: int
    parameters: int
    epochs: int | None
    max_minutes: float | None
    steps_per_epoch: int
    train_files: int
    train_seconds: float
    val_files: int
    val_seconds: float
    first_epoch: int
    settings: tuple[ShownSetting, ...] = ()
    uri: str = ""


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Progress of a stage without events of its own: "prepare", "encode", "decode", "generate", "evaluate",
    "fetch", "start" of a codec, and "prior" where a search trains short ones."""

    stage: str
    done: int
    total: int
    note: str = ""

    @classmethod
    def of_file(cls, stage: str, done: int, total: int, name: str) -> StageProgress:
        """One of a stage that goes file by file: the last one's name says nothing of all of them."""
        return cls(stage=stage, done=done, total=total, note=name if done < total else "files")


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One sentence for the user. `level`: "info" or "warning"; warnings are replayed in the final report."""

    level: str
    message: str


@dataclass(frozen=True, kw_only=True)
class VQStepMetrics:
    """A moment of codec training. `step` counts from 1 over the whole run; `fraction` of the budget used.

    `data_wait_share`: of the training time since the run (re)started, what the host waited for batches.
    """

    step: int
    epoch: int
    epoch_step: int
    steps_per_epoch: int
    fraction: float
    loss: float
    losses: dict[str, float]
    lr: float
    grad_norm: float
    skipped_steps: int
    steps_per_second: float
    audio_seconds_per_second: float
    eta_s: float | None
    data_wait_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DepthScore:
    """The held-out figures of a codec that uses its first `levels` RVQ levels only.

    `val_loss` as in `VQEpochMetrics`; `mel` is its unweighted log-mel term.
    """

    levels: int
    val_loss: float
    mel: float


@dataclass(frozen=True, kw_only=True)
class VQEpochMetrics:
    """An epoch of codec training; `codebook_health` has one entry for each RVQ level.

    `val_loss` is the weighted reconstruction loss of the EMA weights on held-out files, at full depth;
    `depth_scores` has the depths that the run was asked to score. `losses` are means over the epoch's steps,
    those of discriminators over the steps in which they took part. `measured`: whether the epoch was long
    enough for its health to be a report for the health rule.
    """

    epoch: int
    epochs: int | None
    step: int
    train_loss: float
    val_loss: float
    best_val_loss: float
    best_epoch: int
    losses: dict[str, float]
    val_losses: dict[str, float]
    codebook_health: tuple[LevelHealth, ...]
    utilization_warnings: tuple[str, ...]
    reseeded_codes: int
    skipped_steps: int
    audio_seconds_per_second: float
    elapsed_s: float
    depth_scores: tuple[DepthScore, ...] = ()
    measured: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainingCompleteEvent:
    """The end of codec training. `exit_reason`: "completed", "cancelled", "early_stop" or "health".

    `depth_scores` are those of the best epoch, whose weights are kept; `collapse` is what the health rule
    ended the run for, None where it did not."""

    epochs_completed: int
    steps: int
    final_train_loss: float
    final_val_loss: float
    best_val_loss: float
    best_epoch: int
    codebook_health: tuple[LevelHealth, ...]
    warnings: tuple[str, ...]
    audio_seconds_per_second: float
    elapsed_s: float
    exit_reason: str
    depth_scores: tuple[DepthScore, ...] = ()
    collapse: Collapse | None = None
    code_agreement: CodeAgreement | None = None


@dataclass(frozen=True, kw_only=True)
class PriorStepMetrics:
    """A moment of prior training; `loss` in nats per code."""

    step: int
    epoch: int
    epoch_step: int
    steps_per_epoch: int
    fraction: float
    loss: float
    lr: float
    grad_norm: float
    skipped_steps: int
    steps_per_second: float
    codes_per_second: float
    eta_s: float | None


@dataclass(frozen=True, kw_only=True)
class PriorEpochMetrics:
    """An epoch of prior training. Losses in nats per code; perplexities are exp(loss).

    `bits_per_second` is the held-out cost of one second of audio's codes under the prior.
    """

    epoch: int
    epochs: int | None
    step: int
    train_loss: float
    val_loss: float
    val_perplexity: float
    best_perplexity: float
    best_epoch: int
    bits_per_second: float
    is_memorizing: bool
    memorization_message: str
    skipped_steps: int
    codes_per_second: float
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class PriorTrainingCompleteEvent:
    """The end of prior training; `exit_reason` as in `TrainingCompleteEvent`.

    `histogram_bits_per_second` is what held-out codes cost by how often the training recordings have each
    code of each level, `below_histogram` the share of it that the prior saves; None: nothing is held out.
    """

    epochs_trained: int
    steps: int
    final_perplexity: float
    best_perplexity: float
    best_epoch: int
    bits_per_second: float
    memorization_warnings: tuple[str, ...]
    codes_per_second: float
    elapsed_s: float
    exit_reason: str
    histogram_bits_per_second: float | None = None
    memorization: dict[str, Any] | None = None
    """What `MemorizationReport.to_json` says at the end; None where nothing is held out."""
    kept_epoch: int = 0
    """Whose weights are used: `best_epoch`, or the last one where what it generates is more like the training
    codes; 0 in records of before 2026-11-30.
    """
    temperatures: tuple[float, ...] = ()
    """Of each level; empty where they are not known, as where the run failed before they were."""
    code_distance: float | None = None
    """Of generated codes to the training codes (`prior/likeness.py`), at these temperatures."""
    held_out_code_distance: float | None = None
    """The same of the held-out codes; None where nothing, or too little, is held out."""
    level_nats: tuple[float, ...] = ()
    """Of a held-out code of each level at best; empty in records of before 2026-12."""

    @property
    def below_histogram(self) -> float | None:
        if self.histogram_bits_per_second is None:
            return None
        return 1.0 - self.bits_per_second / self.histogram_bits_per_second


@dataclass(frozen=True, kw_only=True)
class AudioSample:
    """A sound that a run has made at a validation, to be kept as `samples/FILE` in its folder.

    `kind`: "original" (an excerpt of a held-out recording), "decoded" (what the codec makes of it) or
    "generated" (of the prior). `source` and `start_s`: of which recording and from where on; `index` tells
    the excerpts or sounds of one moment apart. `content` is the FLAC file as base64, `codes` of each RVQ
    level what is still to be decoded; both are empty once the file is there.
    """

    kind: str
    file: str
    index: int
    epoch: int
    step: int
    source: str = ""
    start_s: float = 0.0
    content: str = ""
    codes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class GeneratedScore:
    """What the judge says of a codec that uses its first `levels` RVQ levels only.

    `generated`: the joint Fréchet distance to the training audio of what a short prior on its codes
    generates; `decoded`: that of decoded held-out recordings. Both are ratios to the floor of interleaved
    halves."""

    levels: int
    generated: float
    decoded: float


@dataclass(frozen=True, kw_only=True)
class CodecJudged:
    """A trial's codec after its short prior was trained and has generated.

    `gains`: for each level the share of its histogram's cost that the prior saves; `scores`: one a depth,
    none where the health rule found a level of which the prior learns nothing (`collapsed_level`, `reason`).
    `copied`: whether what was generated is copied from training audio. Bits: of a second of held-out audio.
    """

    prior_bits_per_second: float
    histogram_bits_per_second: float | None
    gains: tuple[float, ...]
    scores: tuple[GeneratedScore, ...]
    copied: bool
    collapsed_level: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepStarted:
    """The first event of a search. `trials`: how many the first round has; `finalists`: of the last one.

    `objective_definition` is the sentence that says what the ranking means; `left_s`: the seconds of a time
    budget that are left.
    """

    name: str
    output_dir: str
    plan: str
    search: str
    objective: str
    objective_definition: str
    trials: int
    finalists: int
    concurrent: int
    gpus_per_trial: float
    workers_per_trial: int
    max_kbps: float
    settings: tuple[ShownSetting, ...] = ()
    uri: str = ""
    left_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrialUpdate:
    """The state of one trial of a search; a later one with the same `trial` replaces it.

    `round`: "search", "shallower" (again, at fewer levels than had collapsed) or "final". `state`: "pending",
    "running", "completed", "collapsed" (health rule), "pruned" (scheduler), "failed", "retrying" or
    "cancelled"; `reason` says why in words. `objective` is the figure that the trial is ranked by.
    For objective generation: `stage` is what a running trial does after its codec ("prior", "generate",
    "judge"), `below_histogram` what its prior saves, `decoded` and `generated` as in `GeneratedScore`, of its
    best depth. `worst_kept`: the least share of codes that a level keeps (`LevelHealth.kept`).
    `verdict`: of one that has finished, why it would win or not by what is known now; `eligible`: whether it
    might. `passes`: its steps in epochs, where that is known. `trials`: how many the first round has after
    all, where a time budget allows fewer.
    """

    trial: str
    round: str
    state: str
    codebook_size: int
    rvq_levels: int
    kbps: float
    reason: str = ""
    epoch: int = 0
    epochs: int | None = None
    fraction: float = 0.0
    val_loss: float | None = None
    mel: float | None = None
    objective: float | None = None
    worst_level: int | None = None
    worst_utilization: float | None = None
    gpu_seconds: float = 0.0
    elapsed_s: float = 0.0
    device: str = ""
    eta_s: float | None = None
    stage: str = ""
    below_histogram: float | None = None
    decoded: float | None = None
    generated: float | None = None
    worst_kept: float | None = None
    verdict: str = ""
    eligible: bool = True
    passes: float | None = None
    trials: int | None = None


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """A codec that a search could end with: a trial at one depth. Lower `objective` is better.

    `eligible`: healthy, not ended early and within the rate limit, for objective generation also judged, no
    copy and not much farther off when decoded than the best; `reason` says in a clause why it is chosen, or
    eligible and not chosen, or not eligible. `on_front`: no healthy
    candidate has both a lower rate and a lower held-out loss. The judge's figures as in `TrialUpdate`.
    """

    trial: str
    codebook_size: int
    rvq_levels: int
    kbps: float
    objective: float | None
    val_loss: float
    mel: float
    eligible: bool
    reason: str
    on_front: bool
    chosen: bool
    decoded: float | None = None
    generated: float | None = None
    below_histogram: float | None = None


@dataclass(frozen=True, kw_only=True)
class SweepCompleteEvent:
    """The end of a search. `exit_reason`: "completed", "cancelled", "health" (no healthy candidate), "failed"
    (every trial did).

    `chosen` is the winning trial's id, empty without one; `advice` says what to do then.
    """

    exit_reason: str
    chosen: str
    candidates: tuple[CandidateRow, ...]
    gpu_seconds: float
    elapsed_s: float
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of `distill-ray run`; `skipped` with its `reason`. `expected_s`: seconds, where known."""

    stage: str
    skipped: bool
    reason: str
    expected_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """What `distill-ray run` is going to do, in order."""

    output_dir: str
    stages: tuple[PlannedStage, ...]
    uri: str = ""


Event = (
    RunStarted
    | StageProgress
    | Notice
    | RecordingsFound
    | VQStepMetrics
    | VQEpochMetrics
    | TrainingCompleteEvent
    | PriorStepMetrics
    | PriorEpochMetrics
    | PriorTrainingCompleteEvent
    | AudioSample
    | CodecJudged
    | SweepStarted
    | TrialUpdate
    | SweepCompleteEvent
    | PipelinePlan
)

Listener = Callable[[Event], None]
"""Hears what a run says."""

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in typing.get_args(Event)}


def to_record(event: Event) -> dict[str, Any]:
    """A JSON-able dictionary; its "event" key names the class."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}


def from_record(record: Mapping[str, Any]) -> Event:
    """The event that `to_record` made the record from; unknown keys of newer writers are ignored.

    Raises ValueError where the record is no event.
    """
    kind = _KINDS.get(str(record.get("event")))
    if kind is None:
        raise ValueError(f"not an event record: {record.get('event')!r}")
    try:
        return typing.cast(Event, built(kind, record))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a damaged {kind.__name__} record: {error}") from error
