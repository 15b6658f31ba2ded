from __future__ import annotations

from typing import Any

import pytest

RANK_0 = "rank 0"


@pytest.fixture
def mailbox() -> Any:
    from distill_ray.runtime.mailbox import Mailbox

    return Mailbox()


def test_records_leave_once_and_in_order(mailbox: Any) -> None:
    assert mailbox.collect() == []
    assert mailbox.post(RANK_0, [{"n": 1}, {"n": 2}]) == (False, 0)
    assert mailbox.post("k16-q2", [{"n": 3}]) == (False, 0)
    assert mailbox.actors() == {}
    assert mailbox.hello(RANK_0, "its actor") is False
    assert mailbox.collect() == [(RANK_0, {"n": 1}), (RANK_0, {"n": 2}), ("k16-q2", {"n": 3})]
    assert mailbox.collect() == []
    assert mailbox.hello(RANK_0, "its next one") is False
    assert mailbox.actors() == {RANK_0: "its next one"}


def test_groups_are_given_back_once(mailbox: Any) -> None:
    mailbox.hold(RANK_0, "its group")
    mailbox.hold(RANK_0, "the group of its next attempt")
    mailbox.hold("k16-q2", "another group")
    assert mailbox.release(RANK_0) == ["its group", "the group of its next attempt"]
    assert mailbox.release(RANK_0) == []


def test_the_request_to_stop_is_the_answer_to_a_post(mailbox: Any) -> None:
    mailbox.request_stop("k16-q2")
    assert mailbox.post("k16-q2", []) == (True, 0)
    assert mailbox.hello("k16-q2", "its actor") is True
    assert mailbox.post("k32-q2", []) == (False, 0)
    mailbox.request_stop()
    assert mailbox.post("k32-q2", []) == (True, 0)


def test_the_number_of_steps_comes_with_every_answer(mailbox: Any) -> None:
    mailbox.say_steps(40)
    assert mailbox.post("k16-q2", []) == (False, 40)
    mailbox.say_steps(38)
    assert mailbox.post("k32-q2", []) == (False, 38)
