"""Options that are settings: none was lost, each sets its own, and a new field needs no other line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distill_ray.cli.main import COMMANDS, parser_of
from distill_ray.config import catalogue

# Every flag of commit ed010dd, the last with options written by hand.
FLAGS = {
    "prepare": "--channels --json --out --sample-rate --strict --val-fraction --workers -o",
    "train": (
        "--address --adversarial --adversarial-start --batch-size --codebook-size --commitment-weight "
        "--config --epochs --gpus-per-worker --health-floor --health-patience --health-stop "
        "--health-warmup --json --lr --max-minutes --name --no-adversarial --no-health-stop --num-workers "
        "--out --resume --rvq-levels --seed --size -o"
    ),
    "train-prior": (
        "--address --batch-size --config --epochs --gpus-per-worker --heads --hidden-size --json --layers "
        "--lr --max-minutes --num-workers --overwrite --pattern --resume --seed"
    ),
    "tune": (
        "--address --batch-size --codebook-sizes --commitment-weight --config --epochs --finalists "
        "--gpus-per-trial --health-floor --health-patience --health-warmup --json --lr --max-concurrent "
        "--max-kbps --max-minutes --name --no-health-stop --objective --out --plan --resume --rvq-levels "
        "--scheduler --search --seed --size --trials --workers-per-trial -o"
    ),
    "run": (
        "--address --batch-size --codebook-sizes --commitment-weight --config --epochs --finalists "
        "--gpus-per-trial --gpus-per-worker --health-floor --health-patience --health-warmup --json --lr "
        "--max-concurrent --max-kbps --max-minutes --name --no-health-stop --no-tune --num-workers "
        "--objective --out --plan --prior-epochs --prior-minutes --resume --rvq-levels --samples "
        "--scheduler --search --seconds --seed --size --trials --workers-per-trial -o"
    ),
    "generate": (
        "--device --format --json --out --overwrite --prompt --seed --stream --temperature --top-k "
        "--top-p -d -n -o"
    ),
    "encode": "--device --json --levels --out --overwrite -o",
    "decode": "--device --force --json --out --overwrite -o",
    "evaluate": "--device --json --split",
    "submit": (
        "--address --entrypoint-cpus --entrypoint-gpus --env --json --name --no-wait --pip --storage "
        "--token-file --wait"
    ),
    "jobs list": "--address --all --json --token-file",
    "jobs status": "--address --json --token-file",
    "jobs logs": "--address --follow --json --raw --token-file -f",
    "jobs stop": "--address --json --now --token-file",
    "jobs fetch": "--address --all --json --out --token-file -o",
    "bundle": "--force --json --out --prior -o",
    "info": "--json --verify",
    "doctor": "--json",
}
# Flags that were renamed since, with their new names.
RENAMED = {"bundle": {"--force": "--overwrite"}}


def flags_of(command: str) -> set[str]:
    parser = parser_of(command.partition(" ")[0])
    if " " in command:
        parser = parser.commands[command.partition(" ")[2]]
    options = [param for param in parser.params if param.param_type_name == "option"]
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


def test_no_command_was_lost() -> None:
    assert {command.partition(" ")[0] for command in FLAGS} <= set(COMMANDS)


@pytest.mark.parametrize("command", FLAGS)
def test_no_flag_was_lost(command: str) -> None:
    renamed, present = RENAMED.get(command, {}), flags_of(command)
    lost = {flag for flag in FLAGS[command].split() if {flag, renamed.get(flag)}.isdisjoint(present)}
    assert not lost


@pytest.mark.parametrize("command", catalogue.OF_COMMAND)
def test_every_option_sets_its_settings_and_no_other(command: str) -> None:
    parser = parser_of(command)
    required = [param for param in parser.params if param.required]
    needed = [
        word for param in required for word in (*param.opts[:1] * (param.param_type_name == "option"), "1")
    ]
    options = catalogue.options_of(command)
    assert len(options) >= 3
    for option in options:
        first = option.settings[0]
        words = [option.flag.partition("/")[0]]
        if first.hint is not bool:
            words.append(first.meta["choices"][-1] if first.meta["choices"] else "2")
        given = catalogue.overrides_of(command, parser.make_context(command, [*needed, *words]).params)
        assert tuple(given) == option.keys, option.flag
        value = given[first.key]
        assert isinstance(value, tuple if first.is_list else first.hint), option.flag


def test_nothing_is_given_by_a_command_line_without_options() -> None:
    values = parser_of("train").make_context("train", ["IN"]).params
    assert catalogue.overrides_of("train", values) == {}


# A field is put into the section of augmentation as that is loaded, and the app is used as ever.
_NEW_FIELD = """
import importlib.machinery, sys
from pathlib import Path

TABLE = '    table: ClassVar[str] = "augment"\\n'
FIELD = '    echo: float = setting(0.25, "level of an echo", flag="--echo", low=0.0, high=1.0)\\n'

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        source = Path(self.path).read_text("utf-8")
        assert source.count(TABLE) == 1
        exec(compile(source.replace(TABLE, TABLE + FIELD), self.path, "exec"), module.__dict__)

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "distill_ray.config.vqvae":
            return None
        found = super().find_spec(name, path)
        found.loader = Loader(name, found.origin)
        return found

sys.meta_path.insert(0, Finder)
from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.config.catalogue import setting_of

if sys.argv[1] == "row":
    row = setting_of("augment.echo")
    print(row.name, row.key, row.flag, row.type, row.bounds, row.default_text, row.help, *row.flags, sep="|")
else:
    for line in sys.argv[1:]:
        print(run(app, line.split()))
"""


def with_new_field(*lines: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs each line of words in one process; the exit codes go to stdout too."""
    return subprocess.run(
        [sys.executable, "-c", _NEW_FIELD, *lines], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("command", ["train", "tune", "run"])
def test_a_new_field_is_an_option(command: str, tmp_path: Path) -> None:
    shown = with_new_field(f"{command} --help", folder=tmp_path)
    assert "--echo <float>" in shown.stdout, shown.stderr
    assert "Level of an echo. [0 to 1; default: 0.25]" in " ".join(shown.stdout.split())


def test_a_new_field_is_a_row_of_the_reference(tmp_path: Path) -> None:
    row = with_new_field("row", folder=tmp_path).stdout.strip()
    assert row == "echo|augment.echo|--echo|number|0 to 1|0.25|Level of an echo.|train|tune|run"


def test_a_new_field_is_checked_as_flag_and_as_key(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[augment]\necho = 3.0\n")
    both = with_new_field(
        "train nowhere --num-workers 0 --echo 2",
        "train nowhere --num-workers 0 --config c.toml",
        folder=tmp_path,
    )
    said = "error: --echo (augment.echo): {} is above the greatest allowed value 1.0\n"
    assert (both.stdout, both.stderr) == ("2\n2\n", said.format("2.0") + said.format("3.0"))
