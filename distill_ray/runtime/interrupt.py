"""Ctrl-C, SIGTERM, a closed terminal: the first asks the loop to stop and keep a checkpoint, the second
ends everything at once, as the first does before there is a loop.
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
    """What is said of the first signal, which may come before there is a step to keep; who watches a job has
    no Ctrl-C for it.
    """
    again = "" if job_lines.wanted() else "; Ctrl-C once more stops at once"
    return Notice(level="info", message=f"stopping; what is trained so far is kept{again}")


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
        self._starting = False

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
    def starting(self) -> Iterator[None]:
        """Within, the first signal raises KeyboardInterrupt, as one does that came before: nothing has been
        done yet that could be kept, and Ray's start may take minutes where the machine is busy. What comes
        while that is cleaned up changes nothing.
        """
        self._starting = True
        try:
            if super().requested():
                raise KeyboardInterrupt
            yield
        finally:
            self._starting = False

    @contextlib.contextmanager
    def abortable(self) -> Iterator[None]:
        """Within, a second signal raises KeyboardInterrupt; outside (cleaning up) it changes nothing."""
        self._abortable = True
        try:
            yield
        finally:
            self._abortable = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._starting or (super().requested() and self._abortable):
            self._starting = self._abortable = False
            self.request()
            raise KeyboardInterrupt
        self.request()
