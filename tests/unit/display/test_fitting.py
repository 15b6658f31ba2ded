"""At 60, 80 and 120 columns nothing wraps in the middle of a figure; in a pipe COLUMNS holds."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from distill_ray.cli.evaluate import nearest_table
from distill_ray.display.display import stderr_console
from distill_ray.display.fitting import fitted, shortened
from distill_ray.display.leaderboard import sweep_report
from distill_ray.display.live import LiveRenderer
from distill_ray.display.plain import epoch_line, opening_lines
from distill_ray.display.sweep import SweepHistory
from distill_ray.display.sweep_lines import plan_lines
from distill_ray.display.tables import as_lines, depth_table, health_table, table
from distill_ray.evaluate.report import DEPTH_HEADER
from distill_ray.events.records import PipelinePlan, PlannedStage
from distill_ray.vqvae.health import CodeAgreement

WIDTHS = (60, 80, 120)


def test_the_least_important_goes_first() -> None:
    parts = [(0, "head"), (2, "second"), (1, "first"), (3, ""), (0, "end")]
    assert fitted(parts, None) == "head  second  first  end"
    assert fitted(parts, 20) == "head  first  end"
    assert fitted(parts, 5) == "head  end"


@pytest.mark.parametrize("width", WIDTHS)
def test_an_epoch_is_one_line(epoch, width):
    line = epoch_line(epoch(), width)
    assert len(line) <= width
    assert "held-out 101.5" in line
    assert ("worst level" in line) == (width >= 120)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_opening_breaks_only_between_its_facts(started, width):
    lines = "\n".join(opening_lines(started(name="a long name", epochs=None, max_minutes=0.017), width))
    facts = [
        "0.91 M parameters on cpu",
        "2 workers",
        "at most 1 s",
        "epochs of 20 steps",
        "lr 0.002 (override)",
    ]
    for fact in facts:
        assert any(fact in line for line in lines.splitlines()), fact
    assert all(len(line) <= width for line in lines.splitlines() if not line.startswith("run folder"))


def test_a_reason_hangs_below_its_beginning() -> None:
    plan = PipelinePlan(
        output_dir="/r",
        stages=(PlannedStage(stage="tune", skipped=True, reason="word " * 12 + "end", expected_s=None),),
    )
    first, *others = plan_lines(plan, 60)[1].splitlines()
    assert first.startswith("  tune  skipped   word word")
    assert len(others) == 1
    assert others[0].startswith(" " * 18 + "word")
    assert plan_lines(plan)[1].count("\n") == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_stay_bars(started, step, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    renderer = LiveRenderer(console)
    for event in (started(epochs=None, max_minutes=10.0), step(5)):
        renderer.show(event, ())
    renderer.close()
    flat = Console(file=io.StringIO(), width=width)
    flat.print(renderer.view())
    first, second, third = flat.file.getvalue().splitlines()
    assert re.search(r"min [━╸╺ ]{10,}8% ", first)
    assert first.rstrip().endswith("ETA 1:15")
    assert "…" not in first + second + third
    assert "loss 123.4" in third


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_lose_columns_and_break_no_heading(health, sweep, sweep_complete, width):
    console = Console(file=io.StringIO(), width=width)
    history = SweepHistory()
    for event in (*sweep, sweep_complete):
        history.add(event)
    fields = ("shift_eighth", "shift_quarter", "shift_half", "polarity", "gain_3db")
    agreement = CodeAgreement(**dict.fromkeys(fields, (1.0, 1.0, 1.0)))
    for part in (*sweep_report(history), health_table(health, agreement=agreement)):
        console.print(part)
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    for name in ("utilization", "perplexity", "objective", "state", "K", "Q"):
        assert re.search(rf"(?<!\S){name}(?!\S)", text), name
    assert "10%" in text
    assert ("±3 dB" in text) == (width >= 80)
    assert ("made louder or softer" in " ".join(text.split())) == (width >= 80)
    assert "↓ lower is better, ↑ higher is better" in text
    assert "higher is better, but of dead codes" in text


def test_long_names_lose_their_middle_and_each_row_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate --generated` folded names of files at 60 columns."""
    names = ("sound number", "下" * 30), ("a long folder/field recording of a marsh at dawn", "b/c.wav")
    rows = [
        (f"{sound} {part}.wav", "12.3 s", f"{source} {part}.flac", "4.5 s", 0.1234, 0.98)
        for sound, source in names
        for part in ("one", "two")
    ]
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        lines = as_lines([nearest_table(rows)])
        assert max(map(cell_len, lines)) <= width
        assert [line.count(" 12.3 s ") for line in lines[-4:]] == [1, 1, 1, 1]
        assert sum("12." in line for line in lines) == 4  # nothing is folded
        assert any(line.endswith(" ratio") for line in lines)
        assert lines[-1].lstrip().startswith("a long ")
        assert ("…" in lines[-1]) == (width <= 120)
    monkeypatch.delenv("COLUMNS")  # a pipe
    last = as_lines([nearest_table(rows)])[-1]
    assert "a long folder/field recording of a marsh at dawn two.wav " in last


@pytest.mark.parametrize("width", [46, *WIDTHS])
def test_no_heading_of_a_codec_s_scores_breaks_in_a_word(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """At 60 columns it was "entropy-code" and "d"."""
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [(level, 0.1723, 0.09322, 2.034, 3.131, -31.37) for level in (1, 2, 3)]
    lines = as_lines([depth_table("2 files", DEPTH_HEADER, rows)])
    assert max(map(len, lines)) <= width
    assert [line.split()[-1] for line in lines if "coded" in line] == ["dB" if width >= 60 else "STFT"]
    assert any("entropy-" in line for line in lines)
    assert sum("0.09322" in line for line in lines) == 3


def test_the_middle_of_a_name_goes() -> None:
    assert shortened("birds.wav", 9) == "birds.wav"
    assert shortened("blackbirds.wav", 9) == "blac….wav"
    assert shortened("鳥の声の録音.wav", 9) == "鳥の….wav"


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert stderr_console().width == 110
    monkeypatch.setenv("COLUMNS", "60")
    assert stderr_console().width == 60
    lines = as_lines([table("", ("what",), [("a long text " * 20,)])])
    assert max(map(len, lines)) <= 60


def test_a_share_is_spelled_one_way():
    """ "53%" and never "53 %" in what the program says."""
    root = Path(__file__).parents[3] / "distill_ray"
    found = [
        f"{path}: {line.strip()}"
        for path in root.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"""["'][^"']*\} %""", line)
    ]
    assert found == []
