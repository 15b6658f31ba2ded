from __future__ import annotations

import dataclasses
import itertools

import pytest

from distill_ray.config import catalogue
from distill_ray.config.catalogue import OF_COMMAND, all_settings, options_of, overrides_of, setting_of
from distill_ray.config.resolve import CorpusFacts, MachineFacts, dotted, resolve_prior, resolve_vqvae
from distill_ray.config.setting import Section, setting
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import ConfigError, Problem


def test_no_two_settings_have_one_key() -> None:
    keys = [each.key for each in all_settings()]
    assert len(keys) == len(set(keys)) > 90


@pytest.mark.parametrize(
    ("key", "kind", "bounds", "default"),
    [
        ("model.codebook_size", "whole number", "16 to 16384", "automatic"),
        ("training.epochs", "whole number", "at least 1", "automatic"),
        ("training.max_minutes", "number", "above 0", "none"),
        ("training.lr", "number", "above 0, at most 1", "automatic"),
        ("training.seed", "whole number", "0 to 2147483647", "0"),
        ("prior.pattern", "text", "delay, flatten", "delay"),
        ("adversarial.lr", "number", "above 0, at most 1", "0.0002"),
        ("adversarial.enabled", "true or false", "", "automatic"),
        ("adversarial.banded", "true or false", "", "off"),
        ("sweep.codebook_sizes", "list of whole numbers", "", "64,128,256,512,1024"),
        ("sweep.lrs", "list of numbers", "", "none"),
    ],
)
def test_a_setting_in_words(key: str, kind: str, bounds: str, default: str) -> None:
    row = setting_of(key)
    assert (row.type, row.bounds, row.default_text) == (kind, bounds, default)


def test_every_meaning_is_a_sentence() -> None:
    for row in all_settings():
        assert row.help[0].isupper(), row.key
        assert row.help.endswith("."), row.key
        assert not row.help.endswith(".."), row.key


def test_the_flags_of_a_setting_by_command() -> None:
    assert setting_of("prior_training.max_minutes").flags == {
        "train-prior": "--max-minutes",
        "run": "--prior-minutes",
    }
    edits = dict.fromkeys(("generate", "vary", "fill", "loop", "morph"), "-n")
    assert setting_of("generate.count").flags == {"run": "--samples", **edits}
    assert setting_of("model.width").flags == {}


def test_a_search_has_a_list_in_the_place_of_a_value() -> None:
    keys = {key for option in options_of("tune") for key in option.keys}
    for replaced, by in (
        ("model.codebook_size", "sweep.codebook_sizes"),
        ("model.num_quantizers", "sweep.rvq_levels"),
        ("training.max_minutes", "sweep.max_minutes"),
    ):
        assert replaced not in keys
        assert by in keys
        assert replaced in {key for option in options_of("train") for key in option.keys}
    assert "model.commitment_weight" in keys


def test_one_seed_is_that_of_every_stage_of_run() -> None:
    values = dict.fromkeys((option.name for option in options_of("run")), None)
    seeds = {"training.seed": 7, "prior_training.seed": 7, "generate.seed": 7}
    assert overrides_of("run", {**values, "seed": 7}) == seeds


def test_two_settings_of_a_command_cannot_take_one_flag_by_accident(monkeypatch) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(Section):
        table = "other"
        rate: float = setting(1.0, "a rate", flag="--lr")

    monkeypatch.setitem(catalogue.OF_COMMAND, "train", (*OF_COMMAND["train"], Other))
    with pytest.raises(AssertionError, match="train has two settings --lr"):
        options_of("train")


@pytest.mark.parametrize(
    ("command", "key", "flag"),
    [
        ("run", "prior_training.epochs", "--prior-epochs"),
        ("run", "generate.count", "--samples"),
        ("run", "training.epochs", "--epochs"),
        ("train", "health.stop", "--health-stop"),
        ("train-prior", "prior_training.epochs", "--epochs"),
        ("run", "training.max_minutes", "--max-minutes"),  # with --no-tune
        ("tune", "training.max_minutes", None),  # --max-minutes is the search's there
    ],
)
def test_a_problem_names_the_flag_of_the_command(command: str, key: str, flag: str | None) -> None:
    row = setting_of(key)
    problem = Problem(key, "is wrong", row.section.flag(row.name))
    assert catalogue.as_flagged(problem, command) == dataclasses.replace(problem, flag=flag)


def test_a_flag_that_was_chosen_for_a_problem_stays() -> None:
    problem = Problem("model.codebook_size", "a search chooses it", "--codebook-sizes")
    assert catalogue.as_flagged(problem, "tune") == problem
    unknown = Problem("num_workers", "is wrong", "--num-workers")
    assert catalogue.as_flagged(unknown, "run") == unknown


def _resolved_differently() -> set[str]:
    """The keys that come out otherwise than declared, over machines, corpora and budgets."""
    changed: set[str] = set()
    for gpu, seconds, rate, budget in itertools.product(
        (False, True), (20.0, 400.0, 4_000.0, 40_000.0), (16_000, 44_100), ({}, {"max_minutes": 5.0})
    ):
        facts = CorpusFacts(
            file_count=round(seconds / 10), train_seconds=seconds, sample_rate=rate, channels=2
        )
        given = {f"training.{key}": value for key, value in budget.items()}
        codec = resolve_vqvae(facts, overrides=given, machine=MachineFacts(accelerator=gpu)).config
        prior = resolve_prior(
            VQVAEConfig(codebook_size=64, num_quantizers=4, codebook_dim=16, purpose="generation"),
            file_count=facts.file_count,
            train_frames=round(seconds * 86),
            labels=2,
            overrides={f"prior_training.{key}": value for key, value in budget.items()},
            machine=MachineFacts(accelerator=gpu),
        ).config
        values = {**dotted(codec), **dotted(prior)}
        changed |= {
            key
            for key, value in values.items()
            if value != setting_of(key).default and not key.endswith("max_minutes")
        }
    return changed


def test_automatic_is_what_is_chosen_for_a_run() -> None:
    declared = {row.key for row in all_settings() if row.meta["auto"]}
    elsewhere = {"model.size", "health.stop", "sweep.trials", "sweep.gpus_per_trial", "sweep.max_concurrent"}
    elsewhere.add("generate.seed")  # drawn by `generate`
    elsewhere.add("sweep.objective")  # by purpose
    elsewhere |= {"adversarial.enabled", "loss.consistency"}  # by the decoder
    elsewhere |= {"augment.mix", "augment.speed", "augment.equaliser_db"}  # by the decoder
    elsewhere.add("prior.labels")  # with controls
    assert _resolved_differently() == declared - elsewhere


def test_every_list_that_is_none_is_named() -> None:
    values = dict.fromkeys((option.name for option in options_of("tune")), None)
    with pytest.raises(ConfigError) as caught:
        overrides_of("tune", {**values, "codebook_sizes": "64,many", "rvq_levels": ""})
    assert [problem.key for problem in caught.value.problems] == ["sweep.codebook_sizes", "sweep.rvq_levels"]
