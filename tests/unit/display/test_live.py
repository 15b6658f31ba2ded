from __future__ import annotations

import dataclasses
import io
import re
import threading

import pytest
from rich.console import Console

from distill_ray.display import live
from distill_ray.display.display import Display
from distill_ray.display.live import LiveRenderer
from distill_ray.events.records import Notice, StageProgress


@pytest.fixture
def renderer(terminal):
    made = LiveRenderer(terminal)
    yield made
    made.close()


def drawn(renderer: LiveRenderer) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderer.view())
    return console.file.getvalue()


def test_the_view_has_bars_rates_losses_and_health(renderer, started, step, epoch):
    for event in (started(), step(5), epoch(), step(15)):
        renderer.show(event, ())
    text = drawn(renderer)
    first, second, third = text.splitlines()[:3]
    assert first.startswith("epoch 1/3")
    assert " 25%" in first
    assert "1.75 steps/s  33.2 audio-s/s  ETA 1:15" in first
    assert " 75%" in second
    assert "15/20" in second
    assert third.split("  ") == [
        "loss 123.4",
        "mel 1.234",
        "waveform 0.05",
        "lr 1.00e-03",
        "gradient 3.25",
    ]
    assert re.search(r"2\s+10%\s+low\s+4.0\s+58\s+0.333", text)


def test_a_time_budget_is_named(renderer, started, step):
    renderer.show(started(epochs=None, max_minutes=10.0), ())
    renderer.show(step(), ())
    assert drawn(renderer).startswith("epoch 1, 10 min")


def test_minutes_that_may_end_a_run_before_its_epochs_hide_their_number(
    renderer, started, step, epoch, terminal
):
    for event in (started(epochs=1521, max_minutes=10.0), step(), epoch()):
        renderer.show(event, ())
    assert drawn(renderer).startswith("epoch 1, 10 min")
    assert "epoch 1  " in terminal.file.getvalue()
    assert "/1521" not in terminal.file.getvalue()


def test_bars_go_when_all_steps_are_made(renderer, started, step):
    renderer.show(started(), ())
    renderer.show(step(), ())
    renderer.show(dataclasses.replace(step(), epoch=4, epoch_step=0, fraction=1.0), ())
    assert not drawn(renderer).strip()


def test_a_stage_without_parts_says_its_percentage_once(renderer, terminal):
    renderer.show(StageProgress(stage="vary", done=74, total=100, note="percent"), ())
    assert drawn(renderer).split()[-1] == "74%"
    assert "74/100" not in drawn(renderer)
    renderer.show(StageProgress(stage="vary", done=100, total=100, note="percent"), ())
    assert "vary: 100%" in terminal.file.getvalue()


def test_the_prior_shows_codes(renderer, prior_step):
    renderer.show(prior_step, ())
    assert "4 steps/s  12,345 codes/s  ETA –" in drawn(renderer)
    assert "2 steps skipped" in drawn(renderer)


def test_a_stage_has_a_bar_until_it_is_done(renderer, terminal):
    renderer.show(StageProgress(stage="prepare", done=3, total=12, note="decoding [red].wav"), ())
    assert "3/12  decoding [red].wav" in drawn(renderer)
    assert " 25%" in drawn(renderer)
    renderer.show(StageProgress(stage="prepare", done=12, total=12), ())
    assert drawn(renderer).strip() == ""
    assert "prepare: 12 of 12" in terminal.file.getvalue()


def test_a_stage_may_come_again(renderer):
    for done in (1, 2, 1):
        renderer.show(StageProgress(stage="prepare", done=done, total=2), ())
    assert "1/2" in drawn(renderer)


def test_warnings_are_printed_when_they_happen(renderer, terminal, epoch):
    renderer.show(epoch(), ("level [2] is low",))
    printed = terminal.file.getvalue()
    assert "\x1b[1;33mwarning: \x1b[0m\x1b[33mlevel [2] is low\x1b[0m" in printed
    assert "epoch 1/3  train 99" in printed


def test_closing_gives_the_cursor_back_and_leaves_the_lines(renderer, terminal, step):
    renderer.show(Notice(level="info", message="stays"), ())
    renderer.show(step(), ())
    renderer.close()
    printed = terminal.file.getvalue()
    assert printed.count("\x1b[?25l") == printed.count("\x1b[?25h") == 1
    assert "stays" in printed
    renderer.close()
    assert terminal.file.getvalue() == printed


def test_a_search_is_a_leaderboard_until_it_ends(renderer, terminal, sweep, sweep_complete):
    for event in sweep:
        renderer.show(event, ())
    names = [line.split()[0] for line in drawn(renderer).splitlines()[3:]]
    assert names == ["k64-q8", "k256-q8", "k1024-q8"]
    renderer.show(sweep_complete, ())
    assert drawn(renderer).strip() == ""
    printed = terminal.file.getvalue()
    assert printed.count("trial k1024-q8: collapsed level 3: utilization 0.12 < 0.30 for 3 reports") == 1
    assert "best: 64 codes × 8 levels" in printed


def test_the_leaderboard_fits_the_terminal(trial, sweep_started):
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=12)
    renderer = LiveRenderer(console)
    renderer.show(sweep_started, ())
    for codes in range(16, 36):
        renderer.show(trial(codes, "completed", objective=float(codes)), ())
    renderer.show(trial(1024), ())
    text = drawn(renderer)
    renderer.close()
    assert len(text.splitlines()) < 12
    assert "k1024-q8" in text
    assert "k16-q8" in text
    assert "and 14 more" in text


def test_a_runs_bars_end_with_it(renderer, started, step, epoch, complete, prior_step):
    for event in (started(), step(), epoch(), complete):
        renderer.show(event, ())
    assert drawn(renderer).strip() == ""
    renderer.show(started(kind="prior", epochs=None), ())
    renderer.show(prior_step, ())
    assert "Codebook health" not in drawn(renderer)
    assert "12,345 codes/s" in drawn(renderer)


def test_a_long_note_leaves_the_bar_its_place():
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    renderer = LiveRenderer(console)
    renderer.show(StageProgress(stage="evaluate", done=2, total=3, note="/a/long/path/" * 5 + "take.wav"), ())
    text = drawn(renderer)
    renderer.close()
    assert text.startswith("evaluate ━━━━━━")
    assert len(text.rstrip()) <= 60


def test_one_thread_draws_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich's thread redrew a search's table while the line that ended it was written: six lines were lost."""
    monkeypatch.setattr(live, "_TICK_S", 0.001)
    ticked, own = threading.Event(), threading.current_thread()
    displays: list[Display] = []

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            assert displays[0]._drawing._is_owned()  # type: ignore[attr-defined]
            if threading.current_thread() is not own:
                ticked.set()
            return super().write(text)

    console = Console(file=Terminal(), force_terminal=True, width=80)
    display = Display(console)
    displays.append(display)
    with display:
        display(StageProgress(stage="encode", done=1, total=2))
        assert ticked.wait(5.0)
        display.warn("a line")
        display(StageProgress(stage="encode", done=2, total=2))
    text = console.file.getvalue()
    assert "a line" in text
    assert "encode: 2 of 2" in text
