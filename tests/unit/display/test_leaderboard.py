from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.console import Console

from distill_ray.display import leaderboard
from distill_ray.display.leaderboard import Leaderboard, candidate_table, sweep_report, trial_table
from distill_ray.display.sweep import SweepHistory


@pytest.fixture
def history(sweep) -> SweepHistory:
    made = SweepHistory()
    for event in sweep:
        made.add(event)
    return made


def shown(*parts: object, width: int = 120, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def board(history: SweepHistory, seconds: float = 0.0) -> Leaderboard:
    """The leaderboard of a search that began so many seconds ago."""
    history.clock = lambda: history.began + seconds
    return Leaderboard(history)


def words(line: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", line).split())


def test_a_line_a_trial_with_its_figures(history):
    text = shown(board(history, 65.0).view(rows=20, width=120))
    heading, names, _, *rows = text.splitlines()
    assert heading.strip() == "search birds  1:05  2 of 3 ended, 1 running  1,211 GPU s"
    assert words(names) == ("trial K Q kbps ↓ epoch objective ↓ held-out ↓ mel ↓ worst level ↑ GPU s state")
    assert [words(row) for row in rows] == [
        "k64-q8 64 8 4.134 10/10 21.5 20.5 2.25 7: 42% 1,200 completed",
        "k256-q8 256 8 5.513 1/10 – – – – 0 running 10%",
        "k1024-q8 1024 8 6.891 5/10 20 19.5 2 3: 12% 11 collapsed level 3: utilization …",
    ]


def test_the_time_goes_on_without_events(history):
    history.started = dataclasses.replace(history.started, left_s=600.0)
    drawn = board(history).view(rows=20, width=120)
    assert "  0 s, about 10:00 left  " in shown(drawn)
    board(history, 100.0)
    assert "  1:40, about 8:20 left  " in shown(drawn)


def test_a_narrow_terminal_gets_whole_cells_and_fewer_columns(history):
    text = shown(board(history).view(rows=20, width=80), width=80)
    lines = text.splitlines()[1:]
    assert words(lines[0]) == "trial K Q epoch objective ↓ held-out ↓ state"
    assert words(lines[-1]).startswith("k1024-q8 1024 8 5/10 20 19.5 collapsed level 3")
    assert [line for line in lines[:-1] if "…" in line] == []
    assert max(map(len, lines)) <= 80


def test_with_few_rows_the_running_trial_stays(history):
    lines = shown(board(history).view(rows=1, width=120)).splitlines()
    assert words(lines[3]).startswith("k256-q8 ")
    assert lines[4].strip() == "and 2 more"
    assert len(lines) == 5


def test_utilization_has_the_colour_of_health(history):
    text = shown(board(history).view(rows=9, width=120), force_terminal=True, color_system="standard")
    by_trial = {words(line).partition(" ")[0]: line for line in text.splitlines()}
    assert re.search("\x1b\\[33m *7: 42%\x1b", by_trial["k64-q8"])
    assert re.search("\x1b\\[31m *3: 12%\x1b", by_trial["k1024-q8"])
    assert re.search("\x1b\\[36mrunning 10% *\x1b", by_trial["k256-q8"])


def test_candidates_are_ordered_and_marked(candidates):
    lines = shown(candidate_table(candidates)).splitlines()
    rows = [words(line) for line in lines if "k64" in line or "k1024" in line]
    assert rows == [
        "k64-q8 64 8 4.134 20.5 20.5 2.05 front best",
        "k64-q8 64 4 2.067 22.25 22.25 2.225 front cut short: its trial has more levels",
        "k1024-q8 1024 8 6.891 19.5 19.5 1.95 level [3] collapsed",
    ]


@pytest.mark.parametrize(
    ("state", "epoch", "epochs", "passes", "shown_as"),
    [
        ("completed", 1, 1, 0.0489, "0.049"),
        ("running", 1, 1, 0.02, "0.02"),
        ("cancelled", 0, 10, 0.5, "0.5/10"),
        ("running", 1, 10, 0.5, "1/10"),
        ("completed", 10, 10, 10.0, "10/10"),
        ("completed", 2, None, 1.5, "2"),
        ("completed", 3, 3, None, "3/3"),
    ],
)
def test_a_trial_shorter_than_an_epoch_shows_its_share(trial, state, epoch, epochs, passes, shown_as):
    update = trial(64, state, epoch=epoch, epochs=epochs, passes=passes)
    assert leaderboard._epochs(update) == shown_as


def test_a_trials_name_is_never_broken(history, candidates):
    name = "final-k1024-q8-lr0.000123-cw0.25"
    trial = dataclasses.replace(history.trials["k1024-q8"], trial=name)
    row = dataclasses.replace(
        candidates[0], trial=name, reason="a reason of more words than there is room for"
    )
    history.trials = {name: trial}
    for table in (trial_table(history), candidate_table([row])):
        assert name in shown(table, width=110)


def test_the_report_has_reasons_definition_and_cost(history, sweep_complete):
    history.add(sweep_complete)
    text = shown(*sweep_report(history))
    lines = [words(line) for line in text.splitlines()]
    assert "k64-q8 64 8 4.134 10/10 20.5 20.5 2.25 7: 42% 1,200 best" in lines
    row = lines.index("k1024-q8 1024 8 6.891 5/10 19.5 19.5 2 3: 12% 11 collapsed level 3: utilization")
    assert lines[row + 1] == "0.12 < 0.30 for 3 reports"
    assert "ended completed" in lines
    assert "winner 64 codes × 8 levels, 4.134 kbps (trial k64-q8), objective 20.5" in lines
    assert "objective reconstruction: lowest held-out loss within the bit rate" in lines
    assert "bit rate at most 6 kbps" in lines
    assert "GPU seconds 1,250" in lines
    assert "time 21:05" in lines


def test_a_search_on_cpus_reports_seconds_of_trials(history, sweep_complete):
    history.started = dataclasses.replace(history.started, gpus_per_trial=0.0)
    history.trials = {key: dataclasses.replace(item, elapsed_s=30.0) for key, item in history.trials.items()}
    history.add(dataclasses.replace(sweep_complete, gpu_seconds=0.0))
    text = shown(board(history).view(rows=9, width=120), *sweep_report(history))
    lines = [words(line) for line in text.splitlines()]
    assert lines[0] == "search birds 0 s 2 of 3 ended, 1 running 90 trial s"
    assert "trial K Q kbps ↓ epoch objective ↓ held-out ↓ mel ↓ worst level ↑ trial s state" in lines
    assert "k64-q8 64 8 4.134 10/10 20.5 20.5 2.25 7: 42% 30 best" in lines
    assert "trial seconds 90" in lines
    assert "GPU" not in text


def test_without_a_winner_the_report_ends_with_advice(history, sweep_complete, candidates):
    nobody = tuple(
        dataclasses.replace(row, eligible=False, chosen=False, on_front=False) for row in candidates
    )
    advice = "use smaller codebooks: --codebook-sizes 16,32"
    history.add(
        dataclasses.replace(sweep_complete, exit_reason="health", chosen="", candidates=nobody, advice=advice)
    )
    text = shown(*sweep_report(history))
    assert "ended        without a healthy candidate within the bit rate" in text
    assert "winner" not in text
    assert "no healthy candidate has" not in text  # the legend of a front that there is none of
    assert text.splitlines()[-1] == f"warning: {advice}"


def test_a_search_that_was_cut_says_so(history):
    assert "before its last event" in shown(*sweep_report(history))


def test_hostile_names_are_text(sweep_started, trial):
    made = SweepHistory()
    made.add(dataclasses.replace(sweep_started, name="a[/red]b", objective_definition="[link]d[/link]"))
    made.add(trial(64, "failed", trial="[bold]k[/bold]", reason="[/]out of memory[blink]"))
    text = shown(board(made).view(rows=9, width=120), *sweep_report(made))
    for piece in ("a[/red]b", "[link]d[/link]", "[bold]k[/bold]", "failed: [/]out of"):
        assert piece in text
