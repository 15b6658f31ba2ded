"""Signals while a command runs, while its last words are said, and while Python shuts down."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, where it does not handle them itself; what comes after
    its end changes nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._over = False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            ours = (signal.SIG_DFL, signal.default_int_handler)  # not under nohup
            before = {number: signal.getsignal(number) for number in _SIGNALS}
            self._before = {number: handler for number, handler in before.items() if handler in ours}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """The command is over: only its words are missing yet."""
        self._over = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._over:
            raise KeyboardInterrupt


def ignore_at_the_very_end() -> None:
    """Call this before anything else registers what it does at exit: this then comes last.

    Python gives up its handlers before it has taken itself down, and the default one ends a process with
    another code than its own.
    """
    for number in _SIGNALS:
        atexit.register(signal.signal, number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End the process: with `code` also where a signal comes while Ray and Python shut down."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)
