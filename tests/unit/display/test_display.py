from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from distill_ray.display import Display
from distill_ray.events.records import Event, Notice, StageProgress

SCRIPT = """
from distill_ray.display import Display
from distill_ray.events.records import Notice, StageProgress
with Display() as display:
    display(StageProgress(stage="prepare", done=1, total=4))
    display(Notice(level="warning", message="look out"))
"""


class Failing:
    """A renderer that breaks at the second event."""

    def __init__(self) -> None:
        self.shown = 0
        self.closed = 0

    def show(self, event: Event, warnings: tuple[str, ...]) -> None:
        self.shown += 1
        if self.shown == 2:
            raise ZeroDivisionError("bad bar")

    def close(self) -> None:
        self.closed += 1


def on_terminal(**environment: str) -> str:
    """What SCRIPT draws where stderr is a terminal."""
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=theirs, stdout=subprocess.DEVNULL, env={**env, **environment}
    )
    os.close(theirs)
    drawn = b""
    try:
        while chunk := os.read(ours, 4096):
            drawn += chunk
    except OSError:  # a closed terminal reads as an error on Linux
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    return drawn.decode()


def test_a_terminal_gets_the_live_view():
    drawn = on_terminal(TERM="xterm-256color")
    assert "\x1b[?25l" in drawn
    assert " 25%" in drawn
    assert "\x1b[33mlook out" in drawn


def test_no_color_is_honoured():
    drawn = on_terminal(TERM="xterm-256color", NO_COLOR="1")
    assert "look out" in drawn
    assert "\x1b[33m" not in drawn


def test_a_dumb_terminal_gets_plain_lines():
    drawn = on_terminal(TERM="dumb")
    assert drawn.splitlines() == ["prepare: 1 of 4", "warning: look out"]


def test_a_pipe_gets_plain_lines():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["prepare: 1 of 4", "warning: look out"]
    assert done.stdout == ""


def test_a_broken_renderer_is_named_once_and_does_no_more_harm(pipe, capsys):
    renderer = Failing()
    with Display(pipe, renderer=renderer) as display:
        for _ in range(4):
            display(StageProgress(stage="encode", done=1, total=2))
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the display failed and is off (ZeroDivisionError: bad bar at " in error
    assert "test_display.py:" in error
    assert (renderer.shown, renderer.closed) == (2, 1)


def test_a_failing_report_does_not_raise(capsys):
    class Torn:
        def write(self, text: str) -> int:
            raise OSError("no space left")

        def flush(self) -> None: ...

    Display(Console(file=Torn())).final_report({"model": "m"})  # type: ignore[arg-type]
    assert "OSError: no space left" in capsys.readouterr().err


def test_interrupts_are_not_swallowed(pipe):
    class Interrupted(Failing):
        def show(self, event: Event, warnings: tuple[str, ...]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Display(pipe, renderer=Interrupted())(Notice(level="info", message=""))


def test_report_and_tables_go_to_the_console(pipe, started, complete):
    with Display(pipe) as display:
        display(started())
        display(complete)
    display.final_report({"model": "/m.distill"})
    display.table("Corpus", ("files",), [(3,)])
    display.warn("careful")
    text = pipe.file.getvalue()
    for piece in ("90.75 (epoch 2, kept; lower is better)", "/m.distill", "Corpus", "warning: careful"):
        assert piece in text
    assert text.count("codebook_size") == 1, "settings are shown when a run begins, and not again"


def test_a_warning_in_a_log_is_one_line(pipe: Console) -> None:
    """A path that is cut in two can be neither searched for nor copied."""
    path = "/data/" + "long-folder-name/" * 12 + "broken.wav"
    Display(pipe).warn(f"1 of the files cannot be read and are left out: {path}")
    (line,) = pipe.file.getvalue().splitlines()
    assert line == f"warning: 1 of the files cannot be read and are left out: {path}"


def test_a_reader_of_stderr_that_has_gone_ends_no_run() -> None:
    """As `tee` goes at the Ctrl-C that is to end the run with a checkpoint."""
    body = """
import sys
from distill_ray.display import Display
from distill_ray.events.records import Notice
with Display() as display:
    for _ in range(3):
        display(Notice(level="warning", message="look out"))
print("the end", file=sys.stderr)
print("result")
"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=write, check=False)
    os.close(write)
    assert (done.returncode, done.stdout) == (0, b"result\n")
