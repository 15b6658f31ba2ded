"""Several listeners as one, each kept from harming the run or the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from distill_ray.display.failure import report_failure
from distill_ray.events.records import Event


class Listeners:
    """Passes each event on in order; entering and leaving it enters and leaves those that can be.

    A listener that raises is said once on stderr and gets no more events; the run and the others go on.
    """

    def __init__(self, *listeners: Callable[[Event], None]) -> None:
        self._listeners = list(listeners)
        self._managed: list[Any] = [item for item in listeners if isinstance(item, AbstractContextManager)]

    def __enter__(self) -> Listeners:
        for item in self._managed:
            item.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for item in reversed(self._managed):
            try:
                item.__exit__(kind, error, trace)
            except Exception as failure:
                if item in self._listeners:  # else it has been said
                    report_failure(type(item).__name__, failure)

    def __call__(self, event: Event) -> None:
        """Tell every listener that still works."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception as failure:
                self._listeners.remove(listener)
                report_failure(type(listener).__name__, failure)
