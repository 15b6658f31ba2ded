"""The final report: what a user wants to have seen of a search and of runs at their end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from distill_ray.display import figures
from distill_ray.display.history import History, RunHistory, kind_of
from distill_ray.display.leaderboard import sweep_report
from distill_ray.display.tables import facts, health_table, warning_line
from distill_ray.events.records import PriorTrainingCompleteEvent, TrainingCompleteEvent

_REPLAYED = 24  # warnings repeated in the final report
_ALONE = "Result"
_TITLES = {"vqvae": "Codec", "prior": "Prior"}


def final_report(history: History, paths: Mapping[str, object]) -> Iterator[RenderableType]:
    """Results and health of the search and of every run; then `paths` and the warnings, once each.

    Settings were shown when each began.
    """
    if history.sweep.started is not None:
        yield from sweep_report(history.sweep)
    for run in history.runs[:-1]:
        yield from _run_report(run, _title(run), {})
    last = history.runs[-1]
    alone = len(history.runs) == 1 and history.sweep.started is None
    yield from _run_report(last, _ALONE if alone else _title(last), paths)
    warnings = _latest_of_each(history.warnings)
    if warnings:
        yield Text()
    if len(warnings) > _REPLAYED:
        yield warning_line(f"{len(warnings) - _REPLAYED} earlier warnings are in the run's events.jsonl")
    for message in warnings[-_REPLAYED:]:
        yield warning_line(message)


def _latest_of_each(warnings: Sequence[str]) -> tuple[str, ...]:
    """The last one of those that differ in their figures only, as one an epoch does."""
    return tuple({kind_of(text): text for text in warnings}.values())


def _run_report(run: RunHistory, title: str, paths: Mapping[str, object]) -> Iterator[RenderableType]:
    rows = [*_outcome(run), *paths.items()]
    if rows:
        yield Text()
        yield facts(title, rows)
    if run.health:
        yield Text()
        yield health_table(run.health, agreement=run.code_agreement)


def _title(run: RunHistory) -> str:
    return _TITLES.get(run.started.kind, _ALONE) if run.started is not None else _ALONE


def _outcome(history: RunHistory) -> Iterator[tuple[str, object]]:
    done = history.complete
    if isinstance(done, TrainingCompleteEvent):
        yield "ended", f"{done.exit_reason} after {figures.count(done.epochs_completed, 'epoch')}"
        if done.collapse is not None:
            yield "collapse", done.collapse.reason
        if not math.isnan(done.final_train_loss):  # a run cancelled within its first epoch has none
            yield "final training loss", figures.number(done.final_train_loss)
        yield "final held-out loss", figures.number(done.final_val_loss)
        yield (
            "best held-out loss",
            f"{figures.number(done.best_val_loss)} (epoch {done.best_epoch}, kept; lower is better)",
        )
        yield "throughput", f"{figures.number(done.audio_seconds_per_second)} seconds of audio per second"
        yield "time", figures.duration(done.elapsed_s)
    elif isinstance(done, PriorTrainingCompleteEvent):
        yield "ended", f"{done.exit_reason} after {figures.count(done.epochs_trained, 'epoch')}"
        yield "final perplexity", figures.number(done.final_perplexity)
        best = f"(epoch {done.best_epoch}; lower is better)"
        yield "best perplexity", f"{figures.number(done.best_perplexity)} {best}"
        yield "held-out cost", f"{figures.number(done.bits_per_second)} bits per second of audio"
        if done.below_histogram is not None:
            yield "below the codes' histogram", f"{done.below_histogram:.1%} (higher is better)"
        if done.code_distance is not None:
            held_out = done.held_out_code_distance
            beside = "" if held_out is None else f"; held-out recordings: {held_out:.2f}"
            yield (
                "generated to training codes",
                f"distance {done.code_distance:.2f}{beside} (lower is better)",
            )
        if done.kept_epoch:
            yield "kept", f"epoch {done.kept_epoch}"
        yield "throughput", f"{figures.number(done.codes_per_second)} codes per second"
        yield "time", figures.duration(done.elapsed_s)
    elif history.started is not None:
        yield "ended", "before its last event"
