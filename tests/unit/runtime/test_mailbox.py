from __future__ import annotations

from distill_ray.runtime.mailbox import Mailbox


def test_records_leave_once_and_in_order() -> None:
    mailbox = Mailbox()
    assert mailbox.collect() == ([], None)
    assert mailbox.post([{"n": 1}, {"n": 2}]) is False
    assert mailbox.post([{"n": 3}]) is False
    mailbox.hello("rank 0", "its group")
    assert mailbox.group() == "its group"
    assert mailbox.collect() == ([{"n": 1}, {"n": 2}, {"n": 3}], "rank 0")
    assert mailbox.collect() == ([], "rank 0")


def test_the_request_to_stop_is_the_answer_to_a_post() -> None:
    mailbox = Mailbox()
    mailbox.request_stop()
    assert mailbox.post([]) is True
