"""Plain lines for a stderr that is no terminal: one an epoch, seldom ones between, nothing redrawn."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from distill_ray.display import figures
from distill_ray.display.fitting import fitted, listed
from distill_ray.display.sweep import SweepHistory
from distill_ray.display.sweep_lines import (
    plan_lines,
    settings_lines,
    state_line,
    sweep_ending,
    sweep_opening,
    trial_epoch_line,
)
from distill_ray.display.tables import warning_line
from distill_ray.events.records import (
    Event,
    Notice,
    PipelinePlan,
    PriorEpochMetrics,
    PriorStepMetrics,
    RunStarted,
    StageProgress,
    SweepCompleteEvent,
    SweepStarted,
    TrialUpdate,
    VQEpochMetrics,
    VQStepMetrics,
)

STEP_SECONDS = 10.0
STAGE_SECONDS = 5.0
TRIAL_SECONDS = 5.0
PERCENT = "percent"  # the note of a stage that has no parts to count


class PlainRenderer:
    """Prints what changes; steps, stages and a trial's epochs at most every few seconds."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._last: dict[str, float] = {}
        self._sweep = SweepHistory()
        self._timed = False

    def show(self, event: Event, warnings: tuple[str, ...]) -> None:
        """Print the event and the warnings that go with it."""
        for line in self._lines(event):
            self._print(Text(line))
        for message in warnings:
            self._print(warning_line(message))

    def close(self) -> None:
        """Nothing is pending in plain lines."""

    def _lines(self, event: Event) -> list[str]:
        if isinstance(event, RunStarted):
            self._timed = event.max_minutes is not None
            return opening_lines(event)
        if isinstance(event, VQStepMetrics | PriorStepMetrics):
            return [step_line(event)] if self._due("step", STEP_SECONDS) else []
        if isinstance(event, VQEpochMetrics | PriorEpochMetrics):
            self._last["step"] = self._clock()  # the epoch's line says what a step's would
            return [epoch_line(event, timed=self._timed)]
        if isinstance(event, StageProgress):
            done = event.done >= event.total
            return [stage_line(event)] if self._due(event.stage, STAGE_SECONDS) or done else []
        if isinstance(event, TrialUpdate):
            return self._trial(event)
        if isinstance(event, Notice) and event.level != "warning":
            return [event.message]
        return self._of_a_whole(event)

    def _of_a_whole(self, event: Event) -> list[str]:
        """The events that frame a search or a pipeline."""
        self._sweep.add(event)
        if isinstance(event, SweepStarted):
            return sweep_opening(event)
        if isinstance(event, SweepCompleteEvent):
            return sweep_ending(event, self._sweep)
        if isinstance(event, PipelinePlan):
            return plan_lines(event)
        return []

    def _trial(self, event: TrialUpdate) -> list[str]:
        before = self._sweep.trials.get(event.trial)
        self._sweep.add(event)
        key = f"trial {event.trial}"
        if before is None or before.state != event.state:
            if event.state == "pending":
                return []
            self._last[key] = self._clock()
            return [state_line(event, self._sweep)]
        if event.epoch > before.epoch and self._due(key, TRIAL_SECONDS):
            return [trial_epoch_line(event)]
        return []

    def _due(self, key: str, interval: float) -> bool:
        now = self._clock()
        if key in self._last and now - self._last[key] < interval:
            return False
        self._last[key] = now
        return True

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def opening_lines(event: RunStarted, width: int | None = None) -> list[str]:
    """What starts, on what, from how much audio, with which settings; in lines of `width` columns."""
    what = "codec" if event.kind == "vqvae" else "prior"
    in_training = f"{figures.count(event.train_files, 'file')} ({figures.duration(event.train_seconds)})"
    held_out = f"{figures.count(event.val_files, 'file')} ({figures.duration(event.val_seconds)}) held out"
    facts = [
        f"{event.parameters / 1e6:.2f} M parameters on {event.device}",
        figures.count(event.world_size, "worker"),
        *_budget(event),
    ]
    lines = [
        listed(f"training {what} {event.name}:", facts, width),
        listed("data:", [in_training, held_out], width),
    ]
    return [*lines, *settings_lines(event.settings, width), f"run folder: {event.output_dir}"]


def step_line(event: VQStepMetrics | PriorStepMetrics) -> str:
    terms = f"  {figures.losses(event.losses)}" if isinstance(event, VQStepMetrics) else ""
    return (
        f"{event.fraction:4.0%}  epoch {event.epoch}  step {event.epoch_step}/{event.steps_per_epoch}"
        f"  loss {figures.number(event.loss)}{terms}  {figures.number(event.steps_per_second)} steps/s"
        f"  {figures.throughput(event)}  ETA {figures.duration(event.eta_s)}"
    )


def epoch_line(
    event: VQEpochMetrics | PriorEpochMetrics, width: int | None = None, *, timed: bool = False
) -> str:
    """The figures of an epoch, as many as `width` has room for; lower losses are better. `timed`: minutes
    may end the run long before its last epoch.
    """
    head = f"epoch {event.epoch}" + (f"/{event.epochs}" if event.epochs and not timed else "")
    if isinstance(event, VQEpochMetrics):
        reseeded = f"{figures.count(event.reseeded_codes, 'code')} re-seeded" if event.reseeded_codes else ""
        parts = [
            (2, f"train {figures.number(event.train_loss)}"),
            (0, f"held-out {figures.number(event.val_loss)}"),
            (1, f"best {figures.number(event.best_val_loss)} (epoch {event.best_epoch})"),
            (4, figures.worst_level(event.codebook_health)),
            (6, reseeded),
            (5, f"{figures.number(event.audio_seconds_per_second)} audio-s/s"),
        ]
    else:
        parts = [
            (2, f"train {figures.number(event.train_loss)}"),
            (4, f"held-out {figures.number(event.val_loss)}"),
            (0, f"perplexity {figures.number(event.val_perplexity)}"),
            (1, f"best {figures.number(event.best_perplexity)} (epoch {event.best_epoch})"),
            (5, f"{figures.number(event.bits_per_second)} bits/s"),
            (6, f"{figures.number(event.codes_per_second)} codes/s"),
        ]
    if event.skipped_steps:
        parts.append((0, f"{figures.count(event.skipped_steps, 'step')} skipped"))
    return fitted([(0, head), *parts, (3, figures.duration(event.elapsed_s))], width)


def stage_line(event: StageProgress) -> str:
    if event.note == PERCENT:
        return f"{event.stage}: {event.done}%"
    of = f" of {event.total:,}" if event.total else ""
    note = f"  {event.note}" if event.note else ""
    return f"{event.stage}: {event.done:,}{of}{note}"


def _budget(event: RunStarted) -> list[str]:
    steps = figures.count(event.steps_per_epoch, "step")
    most = f"at most {figures.budget(event.max_minutes)}" if event.max_minutes else ""
    if not event.epochs:
        return [*filter(None, [most]), f"epochs of {steps}"]
    return [" or ".join(filter(None, (f"{figures.count(event.epochs, 'epoch')} of {steps}", most)))]
