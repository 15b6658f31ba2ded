from __future__ import annotations

from distill_ray.runtime.mailbox import RANK_0, Mailbox


def test_records_leave_once_and_in_order() -> None:
    mailbox = Mailbox()
    assert mailbox.collect() == []
    assert mailbox.post(RANK_0, [{"n": 1}, {"n": 2}]) == (False, 0)
    assert mailbox.post("k16-q2", [{"n": 3}]) == (False, 0)
    assert mailbox.actors() == {}
    assert mailbox.hello(RANK_0, "its actor") is False
    assert mailbox.collect() == [(RANK_0, {"n": 1}), (RANK_0, {"n": 2}), ("k16-q2", {"n": 3})]
    assert mailbox.collect() == []
    assert mailbox.hello(RANK_0, "its next one") is False
    assert mailbox.actors() == {RANK_0: "its next one"}


def test_groups_are_given_back_once() -> None:
    mailbox = Mailbox()
    mailbox.hold(RANK_0, "its group")
    mailbox.hold(RANK_0, "the group of its next attempt")
    mailbox.hold("k16-q2", "another group")
    assert mailbox.release(RANK_0) == ["its group", "the group of its next attempt"]
    assert mailbox.release(RANK_0) == []


def test_the_request_to_stop_is_the_answer_to_a_post() -> None:
    mailbox = Mailbox()
    mailbox.request_stop("k16-q2")
    assert mailbox.post("k16-q2", []) == (True, 0)
    assert mailbox.hello("k16-q2", "its actor") is True
    assert mailbox.post("k32-q2", []) == (False, 0)
    mailbox.request_stop()
    assert mailbox.post("k32-q2", []) == (True, 0)


def test_the_number_of_steps_comes_with_every_answer() -> None:
    mailbox = Mailbox()
    mailbox.say_steps(40)
    assert mailbox.post("k16-q2", []) == (False, 40)
    mailbox.say_steps(38)
    assert mailbox.post("k32-q2", []) == (False, 38)
