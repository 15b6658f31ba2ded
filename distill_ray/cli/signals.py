"""Signals while a command runs, while its last words are said, and while Python shuts down."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, NoReturn

from distill_ray.errors import CancelledError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 20.0
"""What a command takes at most to end after a second signal, and Python and Ray to shut down after that."""


class LastResort:
    """Within, where PATIENCE_S after a second signal the command is still there, whatever it waits for, what
    `stuck` gives after saying so is the process's exit code.

    Ray's start and end wait in calls of their own, whose end Python's handlers have to wait for. A private
    Ray's guardian ends what is left.
    """

    _open: ClassVar[set[LastResort]] = set()

    def __init__(self, stuck: Callable[[], int]) -> None:
        self._stuck = stuck
        self._over = threading.Event()
        self._before = -1
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> LastResort:
        if threading.current_thread() is threading.main_thread():
            self._ends = reader, writer = socket.socketpair()
            writer.setblocking(False)
            self._before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            self._open.add(self)
            threading.Thread(target=self._watch, args=(reader,), name="last resort", daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        if self._ends is not None:
            signal.set_wakeup_fd(self._before)
            self._open.discard(self)
            self._ends[1].close()

    @classmethod
    def forget(cls) -> None:
        """In a child, which a signal to the whole group reaches too: what it hears is not its parent's."""
        if cls._open:
            signal.set_wakeup_fd(-1)

    def _watch(self, reader: socket.socket) -> None:
        with reader:
            left = 2
            while left > 0:
                heard = reader.recv(64)
                if not heard:
                    return
                left -= sum(number in _SIGNALS for number in heard)
        if not self._over.wait(PATIENCE_S):
            os._exit(self._stuck())


os.register_at_fork(after_in_child=LastResort.forget)


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
    """End the process: with `code` also where a signal comes while Ray and Python shut down, and in time
    after Ctrl-C.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))
    if code == CancelledError.exit_code:
        last = threading.Timer(PATIENCE_S, os._exit, (code,))
        last.daemon = True
        last.start()
    sys.exit(code)
