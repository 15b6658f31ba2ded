"""`Display`: the listener that people look at, on stderr; live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from rich.console import Console, RenderableType
from rich.text import Text

from distill_ray.display import tables
from distill_ray.display.failure import forget, report_failure
from distill_ray.display.final_report import final_report
from distill_ray.display.history import History
from distill_ray.display.live import LiveRenderer
from distill_ray.display.plain import PlainRenderer
from distill_ray.events.records import Event
from distill_ray.foreign import printable_fields

_PLAIN_WIDTH = 110  # of tables in a log file without COLUMNS, whose reader has no terminal width


class Renderer(Protocol):
    """Shows events; `warnings` are those to show with the event."""

    def show(self, event: Event, warnings: tuple[str, ...]) -> None: ...

    def close(self) -> None: ...


class Display:
    """Shows the work and its final report; a listener and a context manager.

    A failure in here is said once on stderr and ends the display, never the run.
    """

    def __init__(self, console: Console | None = None, *, renderer: Renderer | None = None) -> None:
        self.console = console or stderr_console()
        self.history = History()
        self._drawing = threading.RLock()
        self._renderer: Renderer | None = renderer or _renderer_for(self.console, self._drawing)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Show an event; of what others wrote in it, nothing is read as markup or by the terminal."""
        event = printable_fields(event)
        warnings = self.history.add(event)
        renderer = self._renderer
        if renderer is not None:
            self._guarded(lambda: renderer.show(event, warnings))

    def close(self) -> None:
        """Take the live view away; printing goes on working."""
        renderer = self._renderer
        if renderer is not None:
            self._guarded(renderer.close)

    def final_report(self, paths: Mapping[str, object]) -> None:
        """Print what `report.final_report` makes of all events, and `paths` (label → path)."""
        self._guarded(lambda: self._print(final_report(self.history, paths)))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; see `tables.table`."""
        self._guarded(lambda: self._print([tables.table(title, columns, rows)]))

    def warn(self, message: str) -> None:
        """Print a warning line."""
        self._guarded(lambda: self._print([tables.warning_line(message)]))

    def _print(self, parts: Iterable[RenderableType]) -> None:
        whole = not self.console.is_terminal  # a log's lines keep their paths in one piece, for grep
        for part in parts:
            self.console.print(part, soft_wrap=whole and isinstance(part, Text))

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            with self._drawing:
                act()
        except Exception as error:
            renderer, self._renderer = self._renderer, None
            if renderer is not None:
                with suppress(Exception):
                    renderer.close()
            report_failure("display", error)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Say no more: `tee` ends at the Ctrl-C that is to end a run with a checkpoint, and Rich would end
        the process.
        """
        self.quiet = True
        forget(sys.stderr)


def stderr_console() -> Console:
    """A console on stderr; Rich itself honours NO_COLOR and TERM."""
    known = sys.stderr.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return _Console(stderr=True, width=None if known else _PLAIN_WIDTH, highlight=False)


def _renderer_for(console: Console, drawing: threading.RLock) -> Renderer:
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveRenderer(console, drawing)
    return PlainRenderer(console)
