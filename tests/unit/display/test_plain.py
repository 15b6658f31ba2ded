from __future__ import annotations

import dataclasses

import pytest

from distill_ray.display.plain import PlainRenderer, stage_line
from distill_ray.events.records import Notice, PipelinePlan, PlannedStage, StageProgress


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
        "epoch 1/3  train 99  held-out 101.5  best 100.2 (epoch 1)  worst level 2: 10% used"
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
        "training codec birds: 0.91 M parameters on cpu, 2 workers, "
        "3 epochs of 20 steps or at most 2 min 30 s"
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


def test_a_search_is_told_in_lines(renderer, pipe, clock, sweep, sweep_complete):
    for event in [*sweep, sweep_complete]:
        clock.now += 1.0
        renderer.show(event, ())
    opening, rest = lines(pipe)[:5], lines(pipe)[5:]
    assert opening[0] == (
        "searching the codec birds: 3 trials (plan depth, grid search), then 2 finalists; 2 at a time, "
        "each 1 worker on 0.5 GPU"
    )
    assert opening[1] == "objective reconstruction: lowest held-out loss within the bit rate"
    assert opening[2:4] == [
        "bit rate of the winner: at most 6 kbps",
        "settings: size tiny (override)",
    ]
    assert [line.split("  ") for line in rest[:-1]] == [
        [
            "trial k64-q8: running",
            "64 codes × 8 levels",
            "4.134 kbps",
            "on cuda:0",
            "(0 of 3 ended, 1 running)",
        ],
        [
            "trial k1024-q8: running",
            "1024 codes × 8 levels",
            "6.891 kbps",
            "on cuda:0",
            "(0 of 3 ended, 2 running)",
        ],
        [
            "trial k1024-q8: collapsed level 3: utilization 0.12 < 0.30 for 3 reports",
            "after 5 epochs",
            "held-out 19.5",
            "mel 2",
            "worst level 3: 12% used",
            "11 GPU s",
            "(1 of 3 ended, 1 running)",
        ],
        ["trial k256-q8: running 10%", "256 codes × 8 levels", "5.513 kbps", "(1 of 3 ended, 2 running)"],
        [
            "trial k64-q8: completed",
            "after 10 epochs",
            "held-out 20.5",
            "mel 2.25",
            "worst level 7: 42% used",
            "1,200 GPU s",
            "(2 of 3 ended, 1 running)",
        ],
    ]
    assert rest[-1] == (
        "search completed in 21:05, 1,250 GPU s; best: 64 codes × 8 levels, 4.134 kbps (trial k64-q8)"
    )


def test_a_trials_epochs_come_seldom(renderer, pipe, clock, trial):
    renderer.show(trial(64), ())
    for epoch in range(1, 13):
        clock.now += 1.0
        renderer.show(trial(64, epoch=epoch, val_loss=30.0 - epoch), ())
        renderer.show(trial(64, epoch=epoch, val_loss=30.0 - epoch, fraction=0.9), ())
    assert lines(pipe)[1:] == [
        "trial k64-q8: epoch 5/10  held-out 25",
        "trial k64-q8: epoch 10/10  held-out 20",
    ]


def test_a_search_without_a_winner_gives_advice(renderer, pipe, sweep_complete):
    ended = dataclasses.replace(
        sweep_complete, exit_reason="health", chosen="", candidates=(), advice="use smaller codebooks"
    )
    renderer.show(ended, ())
    assert lines(pipe) == [
        "search ended without a healthy codec within the bit rate after 21:05, 1,250 GPU s",
        "use smaller codebooks",
    ]


def test_the_plan_says_what_is_skipped_and_why(renderer, pipe):
    stages = (
        PlannedStage(stage="prepare", skipped=True, reason="the corpus [of] 3 files is there"),
        PlannedStage(stage="tune", skipped=False, reason="nothing is there yet"),
    )
    renderer.show(PipelinePlan(output_dir="/runs/b", stages=stages), ())
    assert lines(pipe) == [
        "stages of /runs/b:",
        "  prepare  skipped   the corpus [of] 3 files is there",
        "  tune     will run  nothing is there yet",
    ]


def test_the_end_of_a_stage_names_no_file() -> None:
    """It was "judge: 2 of 2  …/the last file.wav", two lines at 60 columns."""
    assert stage_line(StageProgress.of_file("judge", 1, 2, "a.wav")) == "judge: 1 of 2  a.wav"
    assert stage_line(StageProgress.of_file("judge", 2, 2, "b.wav")) == "judge: 2 of 2  files"
