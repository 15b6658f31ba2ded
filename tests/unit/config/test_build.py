from __future__ import annotations

import pytest

from distill_ray.config.build import build_sections, unknown_keys
from distill_ray.config.catalogue import GENERATION, all_settings
from distill_ray.config.generation import GenerationSettings, SamplingConfig
from distill_ray.errors import ConfigError, Problem


def test_sections_take_their_own_keys_and_leave_others_alone() -> None:
    built = build_sections(GENERATION, {"generate.count": 3, "sampling.top_k": 5, "training.lr": -1.0})
    assert built[GenerationSettings] == GenerationSettings(count=3)
    assert built[SamplingConfig] == SamplingConfig(top_k=5)


def test_the_problems_of_all_sections_follow_those_found_before() -> None:
    before = Problem("num_workers", "-1 is below 0", "--num-workers")
    with pytest.raises(ConfigError) as caught:
        build_sections(GENERATION, {"generate.count": 0, "sampling.top_k": -1}, [before])
    assert [problem.key for problem in caught.value.problems] == [
        "num_workers",
        "generate.count",
        "sampling.top_k",
    ]


def test_unknown_keys_have_the_nearest_one() -> None:
    assert list(unknown_keys({row.key: row.default for row in all_settings()})) == []
    (problem,) = unknown_keys({"modle.width": 3})
    assert problem.message == "no such setting; did you mean model.width?"
    (far,) = unknown_keys({"nonsense": 3})
    assert far.message == "no such setting"
