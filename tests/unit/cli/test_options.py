from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.cli import options
from distill_ray.errors import ConfigError


@pytest.mark.parametrize(("text", "count"), [("auto", None), ("0", 0), ("4", 4), ("-1", -1)])
def test_worker_plans(text, count):
    plan = options.worker_plan(text, 0.5, "10.0.0.1:6379")
    assert (plan.num_workers, plan.gpus_per_worker, plan.address) == (count, 0.5, "10.0.0.1:6379")


@pytest.mark.parametrize("text", ["two", "1.5", ""])
def test_a_worker_count_that_is_none(text):
    with pytest.raises(ConfigError) as caught:
        options.worker_plan(text, None, None)
    assert [problem.flag for problem in caught.value.problems] == ["--num-workers"]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("/data/birds", "birds"),
        ("/data/My Sounds (2024)/", "My-Sounds-2024"),
        ("s3://bucket/sets/birds/", "birds"),
        ("/data/Vögel", "Vögel"),
        ("/", "distill"),
        ("/data/...", "distill"),
        ("/data/.hidden", "hidden"),
    ],
)
def test_a_name_is_made_of_the_data_folders(data, name):
    assert options.run_name(None, data) == name


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "waves").mkdir()
    monkeypatch.chdir(tmp_path / "waves")
    assert options.run_name(None, ".") == "waves"


@pytest.mark.parametrize("name", ["birds", "My sounds", "a.b-c_1", "Vögel"])
def test_harmless_names_are_kept(name):
    assert options.run_name(name, "/data") == name


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", "../x", "a\\b", "a\0b", ".x", "-x", "a\n", "x ", "ü" * 51]
)
def test_names_that_are_no_path_component_are_refused(name):
    with pytest.raises(ConfigError) as caught:
        options.run_name(name, "/data")
    assert caught.value.problems[0].flag == "--name"


def test_a_single_file_gives_its_name_without_the_ending(tmp_path: Path) -> None:
    (tmp_path / "one take.wav").touch()
    assert options.run_name(None, str(tmp_path / "one take.wav")) == "one-take"


def test_a_range_of_workers():
    plan = options.worker_plan("1-4", None, "10.0.0.1:6379")
    assert (plan.min_workers, plan.num_workers) == (1, 4)
