from __future__ import annotations

from typing import Any

import pytest

from distill_ray.config.catalogue import setting_of
from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import ConfigError


def problems(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        SweepConfig(**settings)
    return [str(problem) for problem in caught.value.problems]


def test_lists_come_out_ascending_and_without_repeats() -> None:
    sweep = SweepConfig(
        codebook_sizes=(256, 64, 256), rvq_levels=(8, 2, 8), lrs=(1e-3, 1e-4), sizes=("base", "tiny", "base")
    )
    assert (sweep.codebook_sizes, sweep.rvq_levels) == ((64, 256), (2, 8))
    assert (sweep.lrs, sweep.sizes) == ((1e-4, 1e-3), ("tiny", "base"))
    assert sweep == SweepConfig(
        codebook_sizes=(64, 256), rvq_levels=(2, 8), lrs=(1e-4, 1e-3), sizes=("tiny", "base")
    )


def test_every_value_is_held_to_the_range_of_its_setting_and_all_are_told_at_once() -> None:
    assert problems(
        codebook_sizes=(8, 64, 32_768),
        rvq_levels=(1, 17),
        commitment_weights=(-1.0,),
        lrs=(0.0, 2.0),
        sizes=("huge",),
        gpus_per_trial=1.5,
    ) == [
        "--codebook-sizes (sweep.codebook_sizes): 8 is below the least allowed value 16",
        "--codebook-sizes (sweep.codebook_sizes): 32768 is above the greatest allowed value 16384",
        "--rvq-levels (sweep.rvq_levels): 1 is below the least allowed value 2",
        "--rvq-levels (sweep.rvq_levels): 17 is above the greatest allowed value 16",
        "sweep.commitment_weights: -1.0 is below the least allowed value 0.0",
        "sweep.lrs: 0.0 must be greater than 0.0",
        "sweep.lrs: 2.0 is above the greatest allowed value 1.0",
        "sweep.sizes: 'huge' is not one of tiny, small, base",
        "--gpus-per-trial (sweep.gpus_per_trial): 1.5 is neither a part of one GPU nor a whole number",
    ]


def test_the_ends_of_the_ranges_are_allowed() -> None:
    sweep = SweepConfig(
        codebook_sizes=(16, 16_384), rvq_levels=(2, 16), lrs=(1.0,), commitment_weights=(0.0,)
    )
    assert sweep.rvq_levels == (2, 16)


@pytest.mark.parametrize("name", ["codebook_sizes", "rvq_levels"])
def test_something_must_be_searched(name: str) -> None:
    assert problems(**{name: ()})[0].endswith(f"(sweep.{name}): give at least one value")


@pytest.mark.parametrize(
    "ends", [(1e-3,), (1e-4, 1e-3, 1e-2), (1e-2, 1e-3), (1e-3, 1e-3), (0.0, 1e-3), (-1.0, 1e-3)]
)
def test_a_range_is_two_rising_positive_numbers(ends: tuple[float, ...]) -> None:
    (text,) = problems(search="random", trials=4, lr_range=ends)
    assert text.startswith("sweep.lr_range: (")
    assert text.endswith("is not two positive numbers, the lower one first")


@pytest.mark.parametrize("end", [float("nan"), float("inf")])
def test_a_range_ends_at_numbers(end: float) -> None:
    assert problems(search="random", trials=4, lr_range=(1e-3, end))


def test_a_range_lies_within_that_of_its_setting() -> None:
    assert problems(search="random", trials=4, lr_range=(0.1, 3.0), commitment_weight_range=(1.0, 200.0)) == [
        "sweep.commitment_weight_range: 200.0 is above the greatest allowed value 100.0",
        "sweep.lr_range: 3.0 is above the greatest allowed value 1.0",
    ]


def test_ranges_need_a_random_search_a_number_of_trials_and_no_list_beside_them() -> None:
    ends = (1e-4, 1e-3)
    assert problems(lr_range=ends) == [
        "sweep.lr_range: a grid has no ranges; use --search random or optuna, or list values"
    ]
    assert problems(search="optuna", lr_range=ends) == [
        "--trials (sweep.trials): say how many trials to draw from a range (--search optuna)"
    ]
    assert problems(search="random", trials=3, lr_range=ends, lrs=(1e-3,)) == [
        "sweep.lr_range: give either a range or sweep.lrs, not both"
    ]
    assert SweepConfig(search="random", trials=3, lr_range=ends, commitment_weights=(0.25,)).lr_range == ends
    assert SweepConfig(search="random").trials is None


@pytest.mark.parametrize(("gpus", "workers"), [(0, 1), (0.25, 1), (1, 1), (2, 1), (0, 4), (4, 4)])
def test_gpus_that_a_trial_can_have(gpus: float, workers: int) -> None:
    assert SweepConfig(gpus_per_trial=gpus, workers_per_trial=workers).gpus_per_trial == gpus


@pytest.mark.parametrize(("gpus", "workers"), [(1.5, 1), (0.5, 2), (1, 2), (3, 2), (2.5, 2)])
def test_only_one_worker_trials_share_a_gpu(gpus: float, workers: int) -> None:
    (text,) = problems(gpus_per_trial=gpus, workers_per_trial=workers)
    assert text.startswith("--gpus-per-trial (sweep.gpus_per_trial): ")
    assert ("NCCL" in text) == (workers > 1)


def test_lists_of_the_command_line() -> None:
    assert setting_of("sweep.codebook_sizes").parse("64, 128,256") == (64, 128, 256)
    assert setting_of("sweep.rvq_levels").parse("8") == (8,)
    assert setting_of("sweep.lrs").parse("1e-3,0.5") == (0.001, 0.5)
    assert setting_of("sweep.sizes").parse("tiny, base") == ("tiny", "base")


@pytest.mark.parametrize("text", ["", "64,", "64;128", "64 128", "2.5", "viele"])
def test_what_is_no_list_is_told_with_its_flag(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        setting_of("sweep.codebook_sizes").parse(text)
    assert str(caught.value) == (
        f"--codebook-sizes (sweep.codebook_sizes): {text!r} is not a list of whole numbers such as 64,128"
    )
