from __future__ import annotations

import pytest

from distill_ray.display.plain import PlainRenderer
from distill_ray.training.events import Notice, StageProgress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def renderer(pipe, clock) -> PlainRenderer:
    return PlainRenderer(pipe, clock=clock)


def lines(console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_an_epoch_is_one_line_with_its_worst_level(renderer, pipe, epoch):
    renderer.show(epoch(), ())
    assert lines(pipe) == [
        "epoch 1/3  train 99  held-out 101.5  best 100.2 (epoch 1)  worst level 2: 10 % used"
        "  4 codes re-seeded  33 audio-s/s  1:05"
    ]


def test_warnings_follow_their_event(renderer, pipe, epoch):
    renderer.show(epoch(), ("level 2 is low",))
    assert lines(pipe)[1] == "warning: level 2 is low"


def test_steps_come_at_most_every_ten_seconds(renderer, pipe, clock, step):
    for number in range(1, 31):
        clock.now = 100.0 + number
        renderer.show(step(number), ())
    assert [line.split("step ")[1].split("/")[0] for line in lines(pipe)] == ["1", "11", "21"]
    assert lines(pipe)[0].split("  ")[2:] == [
        "epoch 1",
        "step 1/20",
        "loss 123.4",
        "mel 1.234",
        "waveform 0.05",
        "1.75 steps/s",
        "33.2 audio-s/s",
        "ETA 1:15",
    ]


def test_no_step_line_right_after_an_epochs(renderer, pipe, clock, step, epoch):
    renderer.show(epoch(), ())
    clock.now += 9.0
    renderer.show(step(), ())
    assert len(lines(pipe)) == 1


def test_a_stage_says_its_start_its_end_and_little_between(renderer, pipe, clock):
    for done in range(101):
        clock.now = 100.0 + 0.06 * done
        renderer.show(StageProgress(stage="encode", done=done, total=100), ())
    assert lines(pipe) == ["encode: 0 of 100", "encode: 84 of 100", "encode: 100 of 100"]


def test_the_opening_names_data_budget_and_sources(renderer, pipe, started):
    renderer.show(started(max_minutes=2.5), ())
    text = lines(pipe)
    assert text[0] == (
        "training codec birds: 0.91 M parameters on cpu, 2 workers, 3 epochs or at most 2.5 min of 20 steps"
    )
    assert text[1] == "data: 12 files (5:11), 1 file (20 s) held out"
    assert text[2] == "settings: codebook_size 64 (auto), lr 0.002 (override)"


def test_the_prior_shows_codes_and_perplexity(renderer, pipe, prior_step, prior_epoch):
    renderer.show(prior_step, ())
    renderer.show(prior_epoch, ())
    assert "12,345 codes/s  ETA –" in lines(pipe)[0]
    assert lines(pipe)[1].startswith(
        "epoch 2  train 3.25  held-out 3.5  perplexity 33.1  best 31.5 (epoch 1)"
    )
    assert "3,480 bits/s" in lines(pipe)[1]


def test_long_lines_are_not_wrapped_and_brackets_are_text(renderer, pipe):
    message = "[bold]" + "long " * 60 + "[/bold]"
    renderer.show(Notice(level="info", message=message), ())
    assert lines(pipe) == [message]
