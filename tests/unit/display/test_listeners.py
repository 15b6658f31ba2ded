from __future__ import annotations

import pytest

from distill_ray.display import Listeners
from distill_ray.events.records import Event, Notice


class Recorder:
    def __init__(self, fail_at: int = 0, fail_exit: bool = False) -> None:
        self.events: list[str] = []
        self.state = "new"
        self._fail_at = fail_at
        self._fail_exit = fail_exit

    def __enter__(self) -> Recorder:
        self.state = "open"
        return self

    def __exit__(self, *error: object) -> None:
        self.state = "closed"
        if self._fail_exit:
            raise OSError("cannot close")

    def __call__(self, event: Event) -> None:
        self.events.append(event.message)
        if len(self.events) == self._fail_at:
            raise OSError("disk full")


def say(listeners: Listeners, *messages: str) -> None:
    for message in messages:
        listeners(Notice(level="info", message=message))


def test_everyone_hears_everything_in_order():
    first, second, plain = Recorder(), Recorder(), []
    with Listeners(first, second, lambda event: plain.append(event.message)) as listeners:
        assert first.state == second.state == "open"
        say(listeners, "a", "b")
    assert first.events == second.events == plain == ["a", "b"]
    assert first.state == second.state == "closed"


def test_one_that_fails_is_named_once_and_the_rest_go_on(capsys):
    bad, good = Recorder(fail_at=2, fail_exit=True), Recorder()
    with Listeners(bad, good) as listeners:
        say(listeners, "a", "b", "c", "d")
    assert bad.events == ["a", "b"]
    assert bad.state == "closed"
    assert good.events == ["a", "b", "c", "d"]
    error = capsys.readouterr().err
    assert error.count("the Recorder failed and is off (OSError: disk full at ") == 1
    assert "cannot close" not in error


def test_a_failure_to_close_is_named_and_the_rest_are_closed(capsys):
    bad, good = Recorder(fail_exit=True), Recorder()
    with Listeners(good, bad):
        pass
    assert good.state == "closed"
    assert "OSError: cannot close" in capsys.readouterr().err


def test_the_runs_own_error_passes():
    recorder = Recorder()
    with pytest.raises(ValueError, match="loop"), Listeners(recorder):
        raise ValueError("loop")
    assert recorder.state == "closed"
