from __future__ import annotations

import threading
import time

import pytest

from distill_ray.corpus.parallel import Job, in_threads


def test_results_keep_their_order_and_progress_counts() -> None:
    seen: list[tuple[int, int, str]] = []

    def square(item: int, job: Job) -> int:
        assert threading.current_thread() is not threading.main_thread()
        job.tick()
        return item * item

    results = in_threads(
        square, range(50), workers=4, files=50, what="squaring", on_progress=lambda *step: seen.append(step)
    )
    assert results == [item * item for item in range(50)]
    assert seen == [(done, 50, "squaring") for done in range(1, 51)]


def test_the_first_error_stops_the_others() -> None:
    stopped: list[int] = []

    def run(item: int, job: Job) -> None:
        if item == 0:
            raise ValueError("first")
        try:
            while True:
                job.check()
                time.sleep(0.001)
        finally:
            stopped.append(item)

    with pytest.raises(ValueError, match="first"):
        in_threads(run, range(40), workers=3, files=40, what="x", on_progress=None)
    assert len(stopped) < 40


def test_an_error_in_the_progress_callback_ends_the_run() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def tick_for_ever(_: int, job: Job) -> None:
        while True:
            job.tick()
            job.check()
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        in_threads(tick_for_ever, range(4), workers=2, files=4, what="x", on_progress=interrupt)


def test_no_items() -> None:
    assert in_threads(lambda item, job: item, [], workers=None, files=0, what="x", on_progress=None) == []
