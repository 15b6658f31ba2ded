from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.cli.job_arguments import COMMANDS, read_command, write_command
from distill_ray.cli.job_settings import check_settings
from distill_ray.cli.main import COMMANDS as ALL
from distill_ray.errors import ClusterError, ConfigError, UsageError

TWO_CPUS = {"CPU": 2.0}


def line(words: str, *, storage: str | None = "s3://b/runs", name: str = "job"):
    return write_command(read_command(words.split()), name=name, storage=storage)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_was_given_is_written_anew_and_parses_to_the_same(here):
    words = "train --lr 0.002 --size tiny birds --num-workers 2 --health-stop --epochs 3 -o /shared/run"
    made = line(words, storage=None)
    assert made.arguments[0] == "train"
    before, after = read_command(words.split()), read_command(made.arguments)
    changed = {"data": f"{here}/birds", "name": "job"}
    assert after.values == {**before.values, **changed}
    assert made.reads == (f"{here}/birds",)
    assert (made.output, made.writes) == ("/shared/run", ("/shared/run",))


def test_a_flag_that_was_turned_off_stays_so():
    assert "--no-health-stop" in line("train birds --no-health-stop").arguments


def test_the_storage_holds_a_folder_and_a_model_of_the_jobs_name():
    made = line("train s3://b/corpus", storage="s3://b/runs/?region=x", name="owls")
    assert made.output == "s3://b/runs/owls?region=x"
    assert {"--out=s3://b/runs/owls?region=x", "--name=owls"} <= set(made.arguments)
    assert made.writes == ("s3://b/runs/?region=x",)
    assert made.reads == ("s3://b/corpus",)


def test_the_models_own_name_wins():
    made = line("train birds --name wren", name="owls")
    assert "--name=wren" in made.arguments
    assert made.output == "s3://b/runs/owls"


def test_data_that_begins_with_a_dash_is_no_option(here):
    made = write_command(read_command(["train", "--", "-birds"]), name="n", storage="/s")
    assert made.arguments[-2:] == ("--", f"{here}/-birds")


def test_a_settings_file_goes_along(here):
    (here / "my.toml").write_text("[training]\nepochs = 1\n")
    made = line("train birds --config my.toml")
    assert made.files == {"settings.toml": b"[training]\nepochs = 1\n"}
    assert "--config=settings.toml" in made.arguments


def test_a_resumed_run_stays_where_it_is_and_keeps_its_name(here):
    made = line("train birds --resume run", storage=None)
    assert made.output == f"{here}/run"
    assert made.reads == (f"{here}/birds", f"{here}/run")
    assert not any(word.startswith(("--name", "--out")) for word in made.arguments)


def test_a_prior_goes_into_its_model(here):
    made = line("train-prior model.distill birds --resume", storage=None)
    assert made.output == f"{here}/model.distill"
    assert made.writes == (str(here),)
    assert made.arguments == ("train-prior", "--resume", "--", f"{here}/model.distill", f"{here}/birds")
    anew = line("train-prior model.distill birds --overwrite", storage=None)
    assert anew.arguments == ("train-prior", "--overwrite", "--", f"{here}/model.distill", f"{here}/birds")


def test_run_takes_several_sources(here):
    assert line("run a s3://b/c --samples 2").reads == (f"{here}/a", "s3://b/c")


@pytest.mark.parametrize(
    ("words", "storage", "said"),
    [
        ("", None, "a command is missing"),
        ("generate m", None, "'generate' cannot be submitted; there are train, train-prior, tune, run"),
        ("train birds", None, "say where the results go: --storage URI"),
        ("train birds --out /o", "/s", "--storage and --out both say"),
        ("train birds --resume r", "/s", "--resume goes on where the run is"),
        ("train-prior m.distill birds", "/s", "writes into the model that it is given"),
        ("train birds --json", "/s", "leave out --json after --"),
        ("train birds --address auto", "/s", "leave out --address after --"),
        ("train birds --config none.toml", "/s", "--config none.toml cannot be read"),
    ],
)
def test_lines_that_cannot_be_sent(words, storage, said):
    with pytest.raises(UsageError) as caught:
        line(words, storage=storage)
    assert said in str(caught.value)


@pytest.mark.parametrize("words", ["train-prior", "train birds --nope", "train birds --epochs many"])
def test_the_commands_own_parser_refuses(words):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Typer brings a Click of its own
        line(words)
    assert hasattr(caught.value, "format_message")


def check(words: str, resources: dict[str, float] = TWO_CPUS) -> None:
    check_settings(read_command(words.split()), resources, "head:8265")


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("train birds --epochs 0 --size huge", ["model.size", "training.epochs"]),
        ("train birds --config wrong.toml", ["training.lr"]),
        ("train-prior m birds --layers 0 --lr 9", ["prior.num_layers", "prior_training.lr"]),
        ("tune birds --max-kbps 0 --lr 9", ["sweep.max_kbps", "training.lr"]),
        ("run birds --codebook-sizes 8,x", ["sweep.codebook_sizes"]),
        ("train birds --num-workers x", ["num_workers"]),
        ("train birds --batch-size 7 --num-workers 2", ["training.batch_size"]),
        (
            "run birds --samples 0 --prior-epochs 0 --lr 9",
            ["generate.count", "prior_training.epochs", "training.lr"],
        ),
        ("run birds --no-tune --max-minutes -1", ["pipeline.max_minutes"]),
        ("run birds --no-tune --codebook-sizes 64", ["sweep.codebook_sizes"]),
        ("run birds --prior-batch-size 7 --num-workers 2", ["prior_training.batch_size"]),
    ],
)
def test_every_wrong_setting_is_said_before_anything_is_sent(words, keys):
    Path("wrong.toml").write_text("[training]\nlr = 9.0\n[prior]\nnum_layers = 0\n")
    with pytest.raises(ConfigError) as caught:
        check(words)
    assert sorted(problem.key for problem in caught.value.problems) == keys


def test_a_wrong_setting_is_named_by_the_flag_of_the_submitted_command(here):
    with pytest.raises(ConfigError, match=r"--prior-epochs \(prior_training.epochs\): 0 is below"):
        check("run birds --prior-epochs 0")


@pytest.mark.parametrize(
    "words",
    [
        "train birds --num-workers 3",
        "train birds --num-workers 1 --gpus-per-worker 1",
        "tune b --gpus-per-trial 1",
    ],
)
def test_more_than_the_cluster_has(words):
    with pytest.raises(ClusterError, match="the cluster at head:8265 has"):
        check(words)


@pytest.mark.parametrize(
    "words", ["train birds", "train birds --num-workers 2", "train-prior m b", "tune b", "run b"]
)
def test_what_the_cluster_can_do(words):
    check(words)


def test_all_that_can_be_submitted_are_commands():
    assert set(COMMANDS) <= set(ALL)


def test_the_home_folder_is_meant_in_a_job_too(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "my.toml").write_text("[training]\nepochs = 1\n")
    made = line("train ~/birds --config=~/my.toml --out=~/run", storage=None)
    assert (made.reads, made.output) == ((f"{here}/birds",), f"{here}/run")
    assert list(made.files.values()) == [b"[training]\nepochs = 1\n"]
