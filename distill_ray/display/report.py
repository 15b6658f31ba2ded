"""Rich renderables made of events: the health table, the settings and the final report; `table` for others.

Every text that may hold user data (names, paths, messages) becomes a `Text`, so that square brackets in it
are never read as markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from distill_ray.display import figures
from distill_ray.display.history import RunHistory
from distill_ray.training.events import (
    PriorTrainingCompleteEvent,
    ShownSetting,
    TrainingCompleteEvent,
)
from distill_ray.vqvae.health import LevelHealth

WARNING_STYLE = "yellow"
_TEXT_WIDTH = 110
_REPLAYED = 24  # warnings repeated in the final report; a long run with a low level has one an epoch


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table of plain values; floats get four digits and stand right, None is a dash."""
    made = Table(
        title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns)
    )
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        made.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def as_text(parts: Sequence[RenderableType]) -> str:
    """The parts without colours, for a result on stdout."""
    console = Console(file=io.StringIO(), width=_TEXT_WIDTH, highlight=False, color_system=None)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def health_table(health: Sequence[LevelHealth], title: str = "Codebook health") -> Table:
    """One row for each RVQ level, coloured by its utilization."""
    made = table(title, ("level", "utilization", "", "perplexity", "dead codes", "entropy"), ())
    for column in (made.columns[index] for index in (1, 3, 4, 5)):
        column.justify = "right"
    for level, item in enumerate(health):
        made.add_row(
            str(level),
            Text(figures.percent(item.utilization), style=item.color),
            Text(figures.STATES[item.color], style=item.color),
            f"{item.perplexity:.1f}",
            str(item.dead_codes),
            f"{item.entropy:.3f}",
        )
    return made


def settings_table(settings: Sequence[ShownSetting]) -> Table:
    made = table("Settings", ("setting", "value", ""), ())
    for item in settings:
        style = "bold" if item.source == "override" else "dim"
        made.add_row(Text(item.name), Text(item.value), Text(f"({item.source})", style=style))
    return made


def warning_line(message: str) -> Text:
    return Text.assemble(("warning: ", f"bold {WARNING_STYLE}"), (message, WARNING_STYLE))


def final_report(history: RunHistory, paths: Mapping[str, object]) -> Iterator[RenderableType]:
    """Settings, results, health, warnings, paths: what a user wants to have seen of a run at its end."""
    if history.started is not None and history.started.settings:
        yield settings_table(history.started.settings)
    yield _facts("Result", [*_outcome(history), *paths.items()])
    if history.health:
        yield health_table(history.health)
    warnings = history.warnings
    if len(warnings) > _REPLAYED:
        yield warning_line(f"{len(warnings) - _REPLAYED} earlier warnings are in the run's events.jsonl")
    for message in warnings[-_REPLAYED:]:
        yield warning_line(message)


def _outcome(history: RunHistory) -> Iterator[tuple[str, object]]:
    done = history.complete
    if isinstance(done, TrainingCompleteEvent):
        yield "ended", f"{done.exit_reason} after {figures.count(done.epochs_completed, 'epoch')}"
        yield "final training loss", figures.number(done.final_train_loss)
        yield "final held-out loss", figures.number(done.final_val_loss)
        yield "best held-out loss", f"{figures.number(done.best_val_loss)} (epoch {done.best_epoch}, kept)"
        yield "throughput", f"{figures.number(done.audio_seconds_per_second)} seconds of audio per second"
        yield "time", figures.duration(done.elapsed_s)
    elif isinstance(done, PriorTrainingCompleteEvent):
        yield "ended", f"{done.exit_reason} after {figures.count(done.epochs_trained, 'epoch')}"
        yield "final perplexity", figures.number(done.final_perplexity)
        yield "best perplexity", f"{figures.number(done.best_perplexity)} (epoch {done.best_epoch}, kept)"
        yield "held-out cost", f"{figures.number(done.bits_per_second)} bits per second of audio"
        yield "throughput", f"{figures.number(done.codes_per_second)} codes per second"
        yield "time", figures.duration(done.elapsed_s)
    elif history.started is not None:
        yield "ended", "before its last event"


def _facts(title: str, rows: Sequence[tuple[str, object]]) -> Table:
    made = table(title, ("", ""), rows)
    made.show_header = False
    made.box = None
    made.padding = (0, 2, 0, 0)
    return made


def _cell(value: object) -> Text:
    if value is None:
        return Text("–")
    if isinstance(value, float):
        return Text(figures.number(value))
    return Text(str(value))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
