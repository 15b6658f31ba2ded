"""Ctrl-C, SIGTERM, a closed terminal: the first asks the loop to stop and keep a checkpoint, the second
ends everything at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from distill_ray.events import lines as job_lines
from distill_ray.events.records import Notice
from distill_ray.training.worker import Listener, StopFlag


def stopping() -> Notice:
    """What is said of the first signal; who watches a job has no Ctrl-C for it."""
    again = "" if job_lines.wanted() else "; Ctrl-C once more stops at once"
    return Notice(level="info", message=f"stopping after this step and keeping a checkpoint{again}")


class Interrupts(StopFlag):
    """The stop flag that signals set; says `stopping` to the listener the first time that somebody reads it
    set.

    The handler itself only sets flags: it may run in the middle of the listener's own work.
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener
        self._announced = False
        self._abortable = False

    def requested(self) -> bool:
        requested = super().requested()
        if requested and not self._announced:
            self._announced = True
            self._listener(stopping())
        return requested

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP (a closed terminal); does nothing outside the main thread, where
        Python allows none. What nohup has made a process ignore stays ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        if before[signal.SIGHUP] is signal.SIG_IGN:
            del before[signal.SIGHUP]
        for number in before:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def abortable(self) -> Iterator[None]:
        """Within, a second signal raises KeyboardInterrupt; outside (starting, cleaning up) it changes
        nothing."""
        self._abortable = True
        try:
            yield
        finally:
            self._abortable = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if super().requested() and self._abortable:
            self._abortable = False
            raise KeyboardInterrupt
        self.request()
