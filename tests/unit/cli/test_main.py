from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from distill_ray import __version__
from distill_ray.cli import output
from distill_ray.cli.main import COMMANDS, app, parser_of

# Run the entry point, then name the packages that it loaded (on stderr, which --help leaves empty).
_TRACE = """
import sys
from distill_ray.cli.main import main
try:
    main()
finally:
    print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def run(*arguments: str, code: str = _TRACE) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["doctor", "-h"]])
def test_help_loads_no_heavy_package(arguments):
    done = run(*arguments)
    assert done.returncode == 0
    loaded = set(done.stderr.split())
    assert "distill_ray" in loaded
    assert not loaded & {"torch", "torchaudio", "ray", "rich", "numpy", "pyarrow", "soundfile", "safetensors"}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "doctor"])
def test_a_command_without_its_arguments_loads_no_heavy_package(command):
    done = run(command)
    assert done.returncode == 2
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert not set(done.stderr.splitlines()[-1].split()) & {"torch", "torchaudio", "ray", "numpy", "pyarrow"}


def test_help_loads_no_command():
    code = _TRACE.replace('name.partition(".")[0] for', "name for")
    loaded = set(run("--help", code=code).stderr.split())
    commands = {f"distill_ray.cli.{name.replace('-', '_')}" for name in COMMANDS}
    assert "distill_ray.cli.main" in loaded
    assert not loaded & commands


def test_help_names_every_command_and_the_exit_codes():
    text = run("--help").stdout
    listed = [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines() if line[2:3].strip()]
    assert listed == list(COMMANDS)
    assert "4 stopped by the health" in " ".join(text.split())


def test_version():
    assert run("--version").stdout == run("-V").stdout == f"distill-ray {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name, capsys):
    assert output.run(app, [name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: distill-ray {name} " in shown
    if name != "bundle":
        assert "--json" in shown


def test_an_unknown_command_is_a_usage_error():
    done = run("trian", "--json")
    assert done.returncode == 2
    assert "error: no such command 'trian'; did you mean train?\n" in done.stderr
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"


def test_a_name_like_no_command_is_answered_with_all_of_them():
    done = run("zzz")
    assert done.returncode == 2
    assert "no such command 'zzz'; there are prepare, train, " in done.stderr


def test_help_is_a_word_too(capsys):
    def shown(*words):
        output.run(app, words)
        return capsys.readouterr()

    assert shown("help") == shown("--help")
    assert shown("help", "encode") == shown("encode", "--help")
    assert "no such command 'nothing'" in shown("help", "nothing").err


def test_help_says_what_a_number_may_be():
    text = run("report", "--help").stdout
    assert "range>" not in text
    assert "are none. [0 to 24; default: 2] --seed N" in " ".join(text.split())


# What is given or not, without anything in its place.
_WITHOUT_DEFAULT = {
    *("address", "at", "config", "data", "entrypoint_cpus", "entrypoint_gpus", "env"),
    *("folder", "job", "label", "like", "max_concurrent", "pip", "prompt", "resume", "sources"),
    *("storage", "strides", "token_file", "max_minutes", "prior_minutes"),
}


def _options():
    for name in COMMANDS:
        parser = parser_of(name)
        for part in getattr(parser, "commands", {name: parser}).values():
            context = part.make_context(part.name, [], resilient_parsing=True, max_content_width=80)
            for each in part.params:
                yield name, each, " ".join((each.get_help_record(context) or ("", ""))[1].split())


def test_help_names_the_default_of_every_option_that_has_one():
    unnamed = {
        (command, each.name)
        for command, each, text in _options()
        if not getattr(each, "is_flag", True) and not each.required and "default: " not in text
    }
    assert {each for each in unnamed if each[1] not in _WITHOUT_DEFAULT} == set()


def test_help_has_one_way_to_write_bounds_and_defaults():
    for command, each, text in _options():
        assert not re.search(r"x[<>]=|[<>]=?x|default [^:]*\]|\] *\[", text), (
            command,
            each.name,
            text,
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_eighty_columns(name):
    parser = parser_of(name)
    for part in (parser, *getattr(parser, "commands", {}).values()):
        context = part.make_context(f"distill-ray {part.name}", [], resilient_parsing=True, terminal_width=80)
        assert max(map(len, part.get_help(context).splitlines())) <= 80


def test_shells_complete_commands_and_options(monkeypatch):
    monkeypatch.setenv("_DISTILL_RAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "distill-ray tr")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run().stdout.split() == ["train", "train-prior"]
    monkeypatch.setenv("COMP_WORDS", "distill-ray train --ch")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run().stdout.split() == ["--channels"]


def test_no_command_is_a_usage_error_with_the_help():
    done = run()
    assert done.returncode == 2
    assert "Commands:" in done.stderr
    assert done.stdout == ""


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "distill_ray", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"distill-ray {__version__}\n"
