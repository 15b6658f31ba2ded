"""What is told of settings before data are read, and that nothing else is told of them later."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from distill_ray.config.check import check_settings
from distill_ray.config.prior import PriorTrainingConfig
from distill_ray.config.resolve import (
    CorpusFacts,
    MachineFacts,
    check_codec_of_prior,
    check_shared_batch,
    resolve_prior,
    resolve_vqvae,
)
from distill_ray.config.vqvae import TrainingConfig, VQVAEConfig
from distill_ray.errors import ConfigError, Problem

WRONG: dict[str, object] = {
    "corpus.channels": 9,
    "sweep.finalists": 0,
    "training.lr": -1.0,
    "prior.num_layers": 0,
    "generate.seconds": 0.0,
}


def keys_of(command: str, given: dict[str, object], **asked: Any) -> set[str]:
    with pytest.raises(ConfigError) as caught:
        check_settings(command, given, **asked)
    assert len(caught.value.problems) == len(set(caught.value.problems))
    return {problem.key for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("command", "tune", "left_alone"),
    [
        ("train", True, {"sweep.finalists", "prior.num_layers", "generate.seconds"}),
        ("train-prior", True, {"sweep.finalists", "training.lr", "generate.seconds"}),
        ("tune", True, {"generate.seconds"}),
        ("run", True, set()),
        ("run", False, {"sweep.finalists"}),
    ],
)
def test_a_command_checks_its_own_tables_at_once(command: str, tune: bool, left_alone: set[str]) -> None:
    """One file may hold the settings of every stage."""
    assert keys_of(command, WRONG, tune=tune) == set(WRONG) - left_alone
    check_settings(command, {key: WRONG[key] for key in left_alone}, tune=tune)


@pytest.mark.parametrize("command", ["train", "train-prior", "tune", "run"])
def test_unknown_keys_and_what_was_found_elsewhere_come_along(command: str) -> None:
    workers = Problem("num_workers", "-1 is below 0", "--num-workers")
    assert keys_of(command, {"modle.width": 3}, problems=[workers]) == {"modle.width", "num_workers"}
    check_settings(command, {})


def test_a_search_by_the_bits_of_priors_checks_the_priors_settings() -> None:
    """Hours before the first of them is trained."""
    given: dict[str, object] = {"prior.num_layers": 0}
    check_settings("tune", {**given, "sweep.objective": "reconstruction"})
    for objective in ("prior-bits", "generation"):
        assert keys_of("tune", {**given, "sweep.objective": objective}) == {"prior.num_layers"}


FACTS = [
    CorpusFacts(file_count=files, train_seconds=seconds, sample_rate=rate, channels=1)
    for files, seconds, rate in ((1, 10.0, 8_000), (30, 600.0, 44_100), (900, 90_000.0, 96_000))
]


@pytest.mark.parametrize(
    "given",
    [
        *({"prior.hidden_size": width} for width in (18, 100, 264, 510, 1000)),
        *({"prior.num_heads": heads} for heads in (1, 3, 5, 7, 24, 128)),
        {"prior.hidden_size": 96, "prior.num_heads": 3},
        {"model.hop": 64},
        {"model.n_fft": 2048},
        {"model.size": "base", "model.width": 64},
        {"training.muon_rate": 0.0},
        {"training.max_minutes": 0.5, "prior_training.max_minutes": 1.0},
    ],
)
def test_what_passes_is_not_refused_later(given: dict[str, object]) -> None:
    """Whatever corpus and machine are. Until ed010dd a width of 264 could fail after hours of encoding."""
    check_settings("run", given, tune=False)
    for facts, accelerator in itertools.product(FACTS, (False, True)):
        machine = MachineFacts(accelerator=accelerator)
        codec = resolve_vqvae(facts, overrides=given, machine=machine).config.model
        prior = resolve_prior(
            codec,
            file_count=facts.file_count,
            train_frames=round(facts.train_seconds * codec.frame_rate),
            overrides=given,
            machine=machine,
        ).config.model
        assert prior.hidden_size % (2 * prior.num_heads) == 0
        for key in ("hidden_size", "num_heads"):
            assert getattr(prior, key) == given.get(f"prior.{key}", getattr(prior, key))


@pytest.mark.parametrize(
    "given", [{"prior.hidden_size": 257}, {"prior.hidden_size": 96, "prior.num_heads": 5}]
)
def test_a_width_that_no_heads_can_share_is_refused(given: dict[str, object]) -> None:
    assert keys_of("train-prior", given) == {"prior.num_heads"}


def test_settings_that_the_codec_decides() -> None:
    codec = VQVAEConfig(codebook_size=64, num_quantizers=4)
    check_codec_of_prior({"prior.codebook_size": 64, "prior.num_layers": 2}, codec)
    with pytest.raises(ConfigError, match=r"prior\.num_quantizers: 8 does not match the data, which has 4"):
        check_codec_of_prior({"prior.num_quantizers": 8}, codec)


@pytest.mark.parametrize("section", [TrainingConfig, PriorTrainingConfig])
def test_a_batch_is_shared_by_every_number_of_workers(
    section: type[TrainingConfig | PriorTrainingConfig],
) -> None:
    given = {f"{section.table}.batch_size": 6}
    check_shared_batch(section, given, MachineFacts(workers=3))
    check_shared_batch(section, {}, MachineFacts(workers=4, fewest_workers=2))
    with pytest.raises(ConfigError, match=r"--batch-size .*6 windows cannot be shared by 4 workers"):
        check_shared_batch(section, given, MachineFacts(workers=4))
    with pytest.raises(ConfigError, match="as --num-workers 1-16 allows; choose a narrower range"):
        check_shared_batch(section, {}, MachineFacts(workers=16, fewest_workers=1))
