from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from distill_ray.cli import output
from distill_ray.errors import UsageError
from distill_ray.events.lines import EVENTS_VARIABLE

FINISH = "from distill_ray.cli.output import finish\n"
RAISE = "from distill_ray import errors\nfrom distill_ray.errors import Problem\n"


def test_the_result_is_all_there_is_on_stdout(made_up):
    body = f"""{FINISH}import os, subprocess, sys
print("chatter from python")
os.write(1, b"chatter from a library\\n")
subprocess.run([sys.executable, "-c", "print('chatter from a child')"])
finish({{"a": 1}}, result="/x/y.distill", as_json=as_json)"""
    done = made_up(body)
    assert (done.returncode, done.stdout) == (0, "/x/y.distill\n")
    for source in ("python", "a library", "a child"):
        assert f"chatter from {source}\n" in done.stderr
    done = made_up(body, "--json")
    assert json.loads(done.stdout) == {"a": 1}


def test_on_a_terminal_what_is_too_long_for_a_line_goes_on_below_itself(monkeypatch):
    rows = [
        ("codes", "3 levels × 256"),
        ("level 0", "20% of codes used; kept at ¼ frame 60%, a/long/path/to.wav"),
    ]
    plain = ["codes    3 levels × 256", f"level 0  {rows[1][1]}"]
    assert output.labelled(rows) == plain  # whole lines for programs
    monkeypatch.setattr(output, "shown_to_a_person", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    assert output.labelled(rows) == [
        plain[0],
        "level 0  20% of codes used;",
        "         kept at ¼ frame 60%,",
        "         a/long/path/to.wav",
    ]


def test_on_a_terminal_an_error_breaks_between_words(monkeypatch, capsys):
    def fail(**given):
        raise UsageError("the corpus at /a/long-path/to.wav is not there")

    monkeypatch.setenv("COLUMNS", "30")
    assert output.run(fail, []) == 2
    assert capsys.readouterr().err == "error: the corpus at /a/long-path/to.wav is not there\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    output.run(fail, [])
    assert capsys.readouterr().err == "error: the corpus at\n/a/long-path/to.wav is not\nthere\n"


def test_on_a_terminal_sentences_break_between_words_and_commands_do_not(monkeypatch, capsys):
    sentence = "nothing listens there yet: 10 s are given"
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    output.tell(sentence)
    output.say(sentence)  # what is to be copied stays whole
    assert capsys.readouterr().err == f"nothing listens there yet: 10\ns are given\n{sentence}\n"


def test_documents_are_valid_json_whatever_the_numbers(capsys):
    document = {
        "path": Path("/a/ü"),
        "loss": float("nan"),
        "more": [{"x": float("inf")}, (1, 2.5)],
        "b": True,
    }
    output.finish(document, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "path": "/a/ü",
        "loss": None,
        "more": [{"x": None}, [1, 2.5]],
        "b": True,
    }


def test_a_result_may_come_with_an_exit_code(made_up):
    body = FINISH + 'finish({"exit_reason": "cancelled"}, result="/m", as_json=as_json, exit_code=3)'
    done = made_up(body)
    assert (done.returncode, done.stdout) == (3, "/m\n")
    done = made_up(body, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (3, {"exit_reason": "cancelled"})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("DistillError", 1),
        ("TrainingError", 1),
        ("CorpusError", 2),
        ("BundleError", 2),
        ("CancelledError", 3),
    ],
)
def test_an_error_is_one_sentence_and_its_exit_code(made_up, name, code):
    done = made_up(f'{RAISE}raise errors.{name}("it is [wrong] at X; do Y.")', "--json")
    assert done.returncode == code
    assert done.stderr == "error: it is [wrong] at X; do Y.\n"
    facts = {"type": name, "message": "it is [wrong] at X; do Y.", "exit_code": code}
    assert json.loads(done.stdout) == {"error": facts}


def test_without_json_an_error_leaves_stdout_empty(made_up):
    assert made_up(f'{RAISE}raise errors.CorpusError("no.")').stdout == ""


def test_a_config_error_lists_every_problem_with_flag_and_key(made_up):
    body = (
        RAISE
        + 'raise errors.ConfigError([Problem("model.codebook_size", "7 is too small", "--codebook-size"),'
        ' Problem("loss.mel", "-1 is too small")])'
    )
    done = made_up(body, "--json")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --codebook-size (model.codebook_size): 7 is too small",
        "error: loss.mel: -1 is too small",
    ]
    error = json.loads(done.stdout)["error"]
    assert error["problems"] == [
        {"flag": "--codebook-size", "key": "model.codebook_size", "message": "7 is too small"},
        {"flag": None, "key": "loss.mel", "message": "-1 is too small"},
    ]
    assert error["exit_code"] == 2


def test_the_unexpected_is_one_sentence_that_says_where_the_traceback_is(made_up):
    done = made_up("1 / 0", "--json")
    assert done.returncode == 1
    found = re.fullmatch(
        r"error: unexpected ZeroDivisionError: division by zero; its traceback is in (\S+\.log)\n",
        done.stderr,
    )
    assert found, done.stderr
    kept = Path(found[1]).read_text()
    assert kept.startswith("Traceback")
    assert "made_up.py" in kept
    assert json.loads(done.stdout)["error"]["type"] == "ZeroDivisionError"


def test_the_traceback_is_shown_on_request(made_up, tmp_path):
    done = made_up("1 / 0", env={"DISTILL_RAY_TRACEBACK": "1"})
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("division by zero; the traceback is above\n")
    assert list(tmp_path.glob("*.log")) == []


def test_a_traceback_that_cannot_be_kept_is_said(made_up):
    # Python's tempfile falls back to other folders, so the disk itself refuses here.
    body = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n1 / 0"
    done = made_up(body)
    assert done.returncode == 1
    assert "its traceback could not be written (" in done.stderr
    assert "DISTILL_RAY_TRACEBACK=1" in done.stderr


def test_ctrl_c_is_exit_3(made_up):
    # Where the tests run in the background, the shell has them ignore SIGINT.
    heeding = "import os, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = made_up(heeding + "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)", "--json")
    assert done.returncode == 3
    assert done.stderr.strip() == "error: cancelled by Ctrl-C"
    assert json.loads(done.stdout)["error"]["exit_code"] == 3


def test_a_job_that_is_stopped_heard_no_ctrl_c(capfd, monkeypatch):
    """`jobs stop` while a job started: its log said "cancelled by Ctrl-C"."""
    monkeypatch.setenv(EVENTS_VARIABLE, "1")
    assert output._ended(output._INTERRUPTED, ["train"], as_json=False) == 3
    said = capfd.readouterr().err
    assert "stopped from outside" in said
    assert "Ctrl-C" not in said


_AGAIN = {
    "while the first is dealt with": "try:\n    press()\nfinally:\n    press()",
    "while its words are said": "output.say = lambda line: (say(line), press())\npress()",
    "at exit": "atexit.register(press)\npress()",
    "as Python takes itself down": "builtins.late = type('Late', (), {'__del__': press})()\npress()",
}


@pytest.mark.parametrize("again", _AGAIN.values(), ids=_AGAIN)
def test_ctrl_c_once_more_is_exit_3_too(made_up, again):
    body = f"""
import atexit, builtins, os, signal
from distill_ray.cli import output
say = output.say
def press(*_, kill=os.kill, pid=os.getpid(), number=signal.SIGINT):
    kill(pid, number)
{again}
"""
    done = made_up(body, preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    assert (done.returncode, done.stderr) == (3, "error: cancelled by Ctrl-C\n")


def test_what_waits_on_after_a_second_ctrl_c_is_left_in_time(made_up):
    body = """
import os, signal, time
from distill_ray.cli import signals
signals.PATIENCE_S = 0.1
signal.signal(signal.SIGINT, lambda *_: None)  # as a call of Ray's that waits for its own time-outs
for _ in range(2):
    os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""
    done = made_up(body, "--json")
    said = "stopped at once; what it waited for, Ray's start or end, is left to itself"
    assert (done.returncode, done.stderr) == (3, f"error: {said}\n")
    assert json.loads(done.stdout)["error"]["message"] == said


@pytest.mark.parametrize(
    "arguments", [("--no-such",), ("--level", "many")], ids=["unknown option", "wrong type"]
)
def test_usage_errors_are_exit_2(made_up, arguments):
    done = made_up("pass", *arguments, "--json")
    assert done.returncode == 2
    said = done.stderr.splitlines()[0].removeprefix("error: ")
    assert said[0].islower()
    assert not said.endswith(".")
    assert "Try 'distill-ray made-up --help'." in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--level", "3", "--json", "a", "b"),
        ("a", "--level", "3", "b", "--json"),
        ("a", "b", "--json", "--level=3"),
    ],
)
def test_options_stand_anywhere(made_up, arguments):
    body = FINISH + 'finish({"words": words, "level": level}, as_json=as_json)'
    assert json.loads(made_up(body, *arguments).stdout) == {"words": ["a", "b"], "level": 3}


@pytest.mark.parametrize("body", ["pass", 'raise errors.CorpusError("no.")'], ids=["result", "error"])
def test_a_reader_that_has_gone_is_no_traceback(made_up, body):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as stdout:
        done = made_up(
            f"{RAISE}{FINISH}{body}\nfinish({{'a': 'x' * 100_000}}, as_json=as_json)",
            "--json",
            capture_output=False,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == (1 if body == "pass" else 2)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_result_that_cannot_be_written_is_one_sentence(made_up, arguments):
    with Path("/dev/full").open("w") as full:
        done = made_up(
            f'{FINISH}finish({{"a": 1}}, result="x", as_json=as_json)',
            *arguments,
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: the result cannot be written to stdout (No space left on device); send it elsewhere\n"
    )


HOSTILE = "x\nerror: forged\r\x1b]0;owned\x07\x9b1A\u202e[bold]"
SHOWN = r"x\nerror: forged\r\x1b]0;owned\x07\x9b1A\u202e[bold]"


def test_foreign_words_are_one_line_of_text(capsys):
    output.say(HOSTILE)
    output.finish({}, result=[HOSTILE, Path(HOSTILE).name], as_json=False)
    captured = capsys.readouterr()
    assert captured.err == f"{SHOWN}\n"
    assert captured.out == f"{SHOWN}\n{SHOWN}\n"


def test_foreign_words_keep_json_valid_and_tame(capsys):
    document = {HOSTILE: [HOSTILE, "\udcff"]}
    output.finish(document, as_json=True)
    text = capsys.readouterr().out
    assert json.loads(text) == document
    assert "error: forged" not in [line.strip() for line in text.split("\n")]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text)


@pytest.mark.parametrize("raised", ["errors.DistillError", "RuntimeError"])
def test_the_message_of_an_exception_cannot_forge_a_line(made_up, monkeypatch, raised):
    monkeypatch.setenv("DISTILL_RAY_TRACEBACK", "1")
    done = made_up(f"{RAISE}raise {raised}({HOSTILE!r})", "--json")
    assert json.loads(done.stdout)["error"]["message"]
    errors = [line for line in done.stderr.split("\n") if line.startswith("error:")]
    assert len(errors) == 1
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


def test_a_wrong_argument_cannot_forge_a_line(made_up):
    done = made_up(f"{RAISE}raise errors.DistillError('unreachable')", f"--{HOSTILE}")
    assert len([line for line in done.stderr.split("\n") if line.startswith("error:")]) == 1
    assert "\x1b" not in done.stderr


def test_what_is_logged_is_a_line_like_others(made_up):
    done = made_up(f"import logging\nlogging.getLogger('distill_ray.storage').warning('in %s', {HOSTILE!r})")
    assert (done.returncode, done.stderr) == (0, f"warning: in {SHOWN}\n")
