"""The live view on a terminal: two bars, rates, losses and the health table, or the leaderboard of a search,
redrawn in place.

Lines that stay (openings, epochs, warnings, finished stages) are printed above it.
"""

from __future__ import annotations

import contextlib
import threading

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from distill_ray.display import figures
from distill_ray.display.fitting import fitted
from distill_ray.display.leaderboard import Leaderboard
from distill_ray.display.plain import PERCENT, epoch_line, opening_lines, stage_line
from distill_ray.display.sweep import SweepHistory
from distill_ray.display.sweep_lines import plan_lines, state_line, sweep_ending, sweep_opening
from distill_ray.display.tables import health_table, warning_line
from distill_ray.events.records import (
    Event,
    Notice,
    PipelinePlan,
    PriorEpochMetrics,
    PriorStepMetrics,
    PriorTrainingCompleteEvent,
    RunStarted,
    StageProgress,
    SweepCompleteEvent,
    SweepStarted,
    TrainingCompleteEvent,
    TrialUpdate,
    VQEpochMetrics,
    VQStepMetrics,
)
from distill_ray.vqvae.health import LevelHealth

_TICK_S = 0.25
_AROUND_TRIALS = 5  # heading, column names, their rule, "and N more", and the line of the cursor
_WIDEST_BAR, _BESIDE_BAR = 40, 8  # columns; beside a bar its percentage and the gaps stand
_WORTH_A_LINE = ("collapsed", "pruned", "failed", "retrying")


class LiveRenderer:
    """Draws from the first event on; `close` takes the view away and leaves the printed lines.

    drawing: held by whoever prints on the console. Rich's own thread would draw a view of another height
    between the moment at which a line is rendered and that at which it is written, and lines would be lost.
    """

    def __init__(self, console: Console, drawing: threading.RLock | None = None) -> None:
        self._console = console
        self._drawing = drawing or threading.RLock()
        self._live: Live | None = None
        self._closed = threading.Event()
        self._bar_width = min(_WIDEST_BAR, console.width // 6)
        self._run = _bars(self._bar_width)
        self._stages = _bars(self._bar_width)
        self._tasks: dict[str, TaskID] = {}
        self._losses = ""
        self._health: tuple[LevelHealth, ...] = ()
        self._started: RunStarted | None = None
        self._sweep = SweepHistory()
        self._leaderboard: Leaderboard | None = None

    def show(self, event: Event, warnings: tuple[str, ...]) -> None:
        """Take an event in, print what stays of it and its warnings, and redraw."""
        with self._drawing:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
                self._closed = threading.Event()
                threading.Thread(target=self._tick, args=(self._live, self._closed), daemon=True).start()
            for line in self._take(event):
                self._console.print(Text(line))
            for message in warnings:
                self._console.print(warning_line(message))
            self._live.update(self.view())

    def close(self) -> None:
        """Take the view away."""
        with self._drawing:
            self._closed.set()
            if self._live is not None:
                self._live.stop()
                self._live = None

    def _tick(self, live: Live, closed: threading.Event) -> None:
        """Redraw now and then until `closed`."""
        while not closed.wait(_TICK_S):
            with self._drawing, contextlib.suppress(Exception):  # whoever prints next meets it again
                if not closed.is_set():
                    live.refresh()

    def view(self) -> RenderableType:
        """What is drawn now."""
        parts: list[RenderableType] = [bars for bars in (self._stages, self._run) if bars.tasks]
        if self._leaderboard is not None and self._sweep.trials:
            rows = self._console.height - _AROUND_TRIALS - len(self._stages.tasks)
            parts.append(self._leaderboard.view(rows=rows, width=self._console.width))
        if self._losses:
            parts.append(Text(self._losses))
        if self._health:
            parts.append(health_table(self._health))
        return Group(*parts)

    def _take(self, event: Event) -> list[str]:
        if isinstance(event, RunStarted):
            self._clear_run()
            self._started = event
            return opening_lines(event, self._console.width)
        if isinstance(event, VQStepMetrics | PriorStepMetrics):
            self._step(event)
        elif isinstance(event, VQEpochMetrics | PriorEpochMetrics):
            if isinstance(event, VQEpochMetrics):
                self._health = event.codebook_health
            return [epoch_line(event, self._console.width, timed=self._minutes() is not None)]
        elif isinstance(event, StageProgress):
            return self._stage(event)
        elif isinstance(event, TrainingCompleteEvent | PriorTrainingCompleteEvent):
            self._clear_run()
        elif isinstance(event, Notice) and event.level != "warning":
            return [event.message]
        elif isinstance(event, PipelinePlan):
            return plan_lines(event, self._console.width)
        elif isinstance(event, SweepStarted | TrialUpdate | SweepCompleteEvent):
            return self._search(event)
        return []

    def _search(self, event: SweepStarted | TrialUpdate | SweepCompleteEvent) -> list[str]:
        before = self._sweep.trials.get(event.trial) if isinstance(event, TrialUpdate) else None
        self._sweep.add(event)
        if isinstance(event, SweepCompleteEvent):
            self._leaderboard = None
            return sweep_ending(event, self._sweep)
        if isinstance(event, SweepStarted) or self._leaderboard is None:
            self._leaderboard = Leaderboard(self._sweep)
        if isinstance(event, SweepStarted):
            return sweep_opening(event, self._console.width)
        changed = before is None or before.state != event.state
        return [state_line(event, self._sweep)] if changed and event.state in _WORTH_A_LINE else []

    def _clear_run(self) -> None:
        """The bars, losses and health of a run that is over are nothing to what follows."""
        for key in ("run", "epoch"):
            if key in self._tasks:
                self._run.remove_task(self._tasks.pop(key))
        self._losses, self._health = "", ()

    def _step(self, event: VQStepMetrics | PriorStepMetrics) -> None:
        if not event.epoch_step and event.fraction >= 1.0:  # all steps are made: what follows has no epoch
            self._clear_run()
            return
        label = self._label(event.epoch)
        rates = [
            (2, f"{figures.number(event.steps_per_second)} steps/s"),
            (1, figures.throughput(event)),
            (0, f"ETA {figures.duration(event.eta_s)}"),
        ]
        self._bar(self._run, "run", label, event.fraction, 1.0, fitted(rates, self._room(label)))
        steps = f"{event.epoch_step}/{event.steps_per_epoch}"
        self._bar(self._run, "epoch", "  this epoch", event.epoch_step, event.steps_per_epoch, steps)
        terms = event.losses if isinstance(event, VQStepMetrics) else {}
        parts = [
            (0, f"loss {figures.number(event.loss)}"),
            *(
                (4 + number, figures.losses({name: value}))
                for number, (name, value) in enumerate(terms.items())
                if value != 0
            ),
            (2, f"lr {event.lr:.2e}"),
            (3, f"gradient {figures.number(event.grad_norm)}"),
        ]
        if event.skipped_steps:
            parts.append((1, f"{figures.count(event.skipped_steps, 'step')} skipped"))
        self._losses = fitted(parts, self._console.width)

    def _stage(self, event: StageProgress) -> list[str]:
        if event.done >= event.total:
            if event.stage in self._tasks:
                self._stages.remove_task(self._tasks.pop(event.stage))
            return [stage_line(event)]
        note = "" if event.note == PERCENT else f"{event.done:,}/{event.total:,}  {event.note}"
        # Of a note that is too long the bar would make room for it.
        note = set_cell_size(note, min(cell_len(note), self._room(event.stage)))
        self._bar(self._stages, event.stage, event.stage, event.done, event.total, note)
        return []

    def _room(self, label: str) -> int:
        """Columns beside a label and its bar."""
        return max(0, self._console.width - len(label) - self._bar_width - _BESIDE_BAR)

    def _label(self, epoch: int) -> str:
        if (minutes := self._minutes()) is not None:
            return f"epoch {epoch}, {figures.budget(minutes)}"
        if self._started is not None and self._started.epochs:
            return f"epoch {epoch}/{self._started.epochs}"
        return f"epoch {epoch}"

    def _minutes(self) -> float | None:
        return self._started.max_minutes if self._started is not None else None

    def _bar(self, bars: Progress, key: str, label: str, done: float, total: float, note: str) -> None:
        if key not in self._tasks:
            self._tasks[key] = bars.add_task(label, total=total, note=note)
        bars.update(self._tasks[key], description=label, completed=done, total=total, note=note)


def _bars(bar_width: int) -> Progress:
    # markup=False: labels and notes carry names from outside.
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=bar_width),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TextColumn(
            "{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
        ),
    )
