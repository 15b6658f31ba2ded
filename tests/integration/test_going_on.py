"""What ends a command early, and the line that it prints then: given again, it goes on."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile

RATE = 8_000
ENV = {"XDG_CACHE_HOME": "cache", "DISTILL_RAY_TRACEBACK": "1", "PYTHONUNBUFFERED": "1"}
CODEC = ["--config", "one.toml", "--epochs", "5", "--num-workers", "0", "--no-report"]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def folder(tmp_path: Path, small_settings: str, plucks: Any) -> Path:
    """Recordings, and settings of a codec that trains for some seconds."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        tone_T, rng = plucks(number, 1.5)
        noise_T = 0.02 * rng.standard_normal(len(tone_T))
        soundfile.write(tmp_path / "in" / f"{number}.wav", 0.3 * tone_T + noise_T, RATE)
    settings = re.sub(r"(training\])", r"\1\nbatch_size = 16\ncheckpoint_seconds = 0.0", small_settings)
    (tmp_path / "search.toml").write_text(settings)
    one = settings.replace("[model]\n", "[model]\ncodebook_size = 16\nnum_quantizers = 2\n")
    (tmp_path / "one.toml").write_text(one)
    return tmp_path


def stopped(folder: Path, words: Sequence[str], after: str, *signals: int) -> tuple[int, list[str]]:
    """Runs a command, sends `signals` a second apart once a line of it has `after`; code and its lines."""
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "distill_ray", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENV},
        cwd=folder,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            if after in line:
                for number in signals:
                    process.send_signal(number)
                    time.sleep(0.05)
                break
        lines += process.stderr.read().splitlines()
        return process.wait(120), lines


@pytest.fixture
def cut(folder: Path, in_process: Any) -> Callable[..., tuple[int, list[str]]]:
    """As `stopped`, without another process."""

    def ended(words: Sequence[str], after: str, *signals: int) -> tuple[int, list[str]]:
        made = in_process(*words, cwd=folder, environment=ENV, after=after, signals=signals)
        return made.returncode, made.stderr.splitlines()

    return ended


def line_of(lines: list[str]) -> list[str]:
    """The command of the line that goes on, which is the last one."""
    head, _, command = lines[-1].partition("go on with: distill-ray ")
    assert not head, lines
    return shlex.split(command)


@pytest.fixture
def done(folder: Path, in_process: Any) -> Callable[[Sequence[str]], tuple[dict[str, Any], str]]:
    """The document of a command that comes to its end, and what it said."""

    def ended(words: Sequence[str]) -> tuple[dict[str, Any], str]:
        made = in_process(*words, "--json", cwd=folder, environment=ENV)
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout), made.stderr

    return ended


@pytest.mark.slow  # the next test and that of a pipeline are its quick ones
@pytest.mark.parametrize(
    ("after", "signals"),
    [
        ("epoch 2", (signal.SIGINT,)),
        ("prepare:", (signal.SIGTERM,)),
        ("epoch 2", (signal.SIGINT, signal.SIGINT)),
        ("epoch 2", (signal.SIGTERM,)),
        ("epoch 2", (signal.SIGHUP,)),
    ],
)
def test_a_training_goes_on_by_the_line_that_it_prints(
    folder: Path, done: Any, after: str, signals: tuple[int, ...]
) -> None:
    words = ["train", "in", *CODEC, "--new"]
    code, lines = stopped(folder, words, after, *signals)
    assert code == 3, lines
    again = line_of(lines)
    assert again == words[:-1]
    made, said = done(again)
    assert (made["exit_reason"], made["epochs_completed"]) == ("completed", 5)
    assert made["output_dir"] == str(folder / "runs" / "in")
    if after == "epoch 2":
        assert f"going on with the unfinished run in {folder}/runs/in" in said
        assert "epoch 1/5" not in said


def test_a_killed_and_a_stopped_training_go_on_by_the_same_command_or_without_its_data(
    folder: Path, done: Any, cut: Any
) -> None:
    words = ["train", "in", *CODEC]
    code, _ = cut(words, "epoch 2", signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, lines = cut(words, "epoch 4", signal.SIGINT)
    assert (code, line_of(lines)) == (3, words)
    assert any(f"going on with the unfinished run in {folder}/runs/in" in line for line in lines)
    assert not any("epoch 1/5" in line for line in lines)
    made, said = done(["train", "--resume", "runs/in", "--no-report", "--num-workers", "0"])
    assert (made["epochs_completed"], "epoch 2/5" in said) == (5, False)


@pytest.mark.slow
def test_other_recordings_are_another_training(folder: Path, done: Any) -> None:
    words = ["train", "in", *CODEC]
    stopped(folder, words, "epoch 2", signal.SIGINT)
    (folder / "in" / "5.wav").unlink()
    made, said = done(words)
    assert "is of other recordings: this is a new one" in said
    assert made["output_dir"] == str(folder / "runs" / "in-2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "signals"),
    [
        ("trial k16-q3: epoch", (signal.SIGINT,)),
        ("trial k16-q3: epoch", (signal.SIGINT, signal.SIGINT)),
        ("starting Ray", (signal.SIGINT,)),
        ("starting Ray", (signal.SIGINT, signal.SIGINT)),
    ],
)
def test_a_search_goes_on_by_the_line_that_it_prints(
    folder: Path, done: Any, after: str, signals: tuple[int, ...]
) -> None:
    words = ["tune", "in", "--config", "search.toml", "--codebook-sizes", "16,32", "--rvq-levels", "2,3"]
    words += ["--epochs", "16", "--finalists", "1", "--no-report"]  # few end before a signal reaches them
    code, lines = stopped(folder, words, after, *signals)
    assert code == 3, lines
    assert not [line for line in lines if "Last result" in line or "Traceback" in line]
    assert line_of(lines) == words
    made, _ = done(words)
    assert made["exit_reason"] == "completed"
    assert made["output_dir"] == str(folder / "runs" / "in")
    made, _ = done(["tune", "--resume", "runs/in", "--no-report"])
    assert made["exit_reason"] == "completed"


def test_a_pipeline_goes_on_by_the_line_that_it_prints(folder: Path, done: Any, cut: Any) -> None:
    words = ["run", "in", "--no-tune", *CODEC, "--prior-epochs", "5", "--samples", "1", "--seconds", "0.5"]
    for after, signals in (
        ("epoch 2/5", (signal.SIGTERM,)),  # the codec's
        ("epoch 2/5", (signal.SIGINT, signal.SIGINT)),  # the prior's
    ):
        code, lines = cut(words, after, *signals)
        assert code == 3, lines
        assert line_of(lines) == words
    made, _ = done(words)
    assert made["output_dir"] == str(folder / "runs" / "in")
    assert [stage["state"] for stage in made["stages"]] == ["skipped", "skipped", "done", "done"]
    assert [path.name for path in (folder / "runs").iterdir()] == ["in"]
