from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from distill_ray.events.records import Event
from distill_ray.runtime.interrupt import Interrupts, stopping


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)  # the handler runs in here


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_the_second_aborts(
    number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:  # the tests run under nohup
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))
        signal.signal(number, signal.SIG_DFL)
    said: list[Event] = []
    interrupts = Interrupts(said.append)
    with interrupts.handling(), interrupts.abortable():
        assert not interrupts.requested()
        os.kill(os.getpid(), number)
        assert said == []  # not from within the handler
        assert interrupts.requested()
        assert interrupts.requested()
        assert said == [stopping()]
        with pytest.raises(KeyboardInterrupt):
            _send(number)
        os.kill(os.getpid(), number)  # while what was aborted is cleaned up
        assert interrupts.requested()


def test_a_job_has_no_second_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Ctrl-C" in stopping().message
    assert "checkpoint" not in stopping().message  # before the first step there is none
    monkeypatch.setenv("DISTILL_RAY_EVENTS", "1")
    assert "Ctrl-C" not in stopping().message


def test_cleaning_up_is_not_interrupted() -> None:
    interrupts = Interrupts(lambda event: None)
    with interrupts.handling():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested()


def test_the_first_signal_ends_a_start_and_the_second_leaves_the_cleaning_up_alone() -> None:
    interrupts, cleaned = Interrupts(lambda event: None), []

    @contextlib.contextmanager
    def slow() -> Iterator[None]:
        try:
            _send(signal.SIGINT)
            yield
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned.append(True)

    with interrupts.handling():
        with pytest.raises(KeyboardInterrupt), interrupts.starting(), slow():
            raise AssertionError("it was stopped before it was there")
        assert (cleaned, interrupts.requested()) == ([True], True)
        with pytest.raises(KeyboardInterrupt), interrupts.starting():
            raise AssertionError("it had been stopped before")


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts = Interrupts(lambda event: None)
        with interrupts.handling():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupts = Interrupts(lambda event: None)
    with interrupts.handling():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_another_thread_there_are_no_handlers_and_no_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    during = []

    def work() -> None:
        with Interrupts(lambda event: None).handling():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before]
