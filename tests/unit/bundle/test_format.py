from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_ray.bundle import Manifest, read_manifest
from distill_ray.errors import BundleError

HERE = Path("model.distill")


@pytest.fixture
def document(full_file: Path) -> dict[str, Any]:
    return read_manifest(full_file).to_json()


def test_a_manifest_survives_json(document: dict[str, Any]) -> None:
    assert Manifest.from_json(document, HERE).to_json() == document
    assert document["has_prior"] is True
    assert document["sample_rate"] == 44_100
    assert document["metadata"]["provenance"]["seed"] == 7


def test_kbps_is_levels_times_bits_times_frame_rate(codec_file: Path) -> None:
    assert read_manifest(codec_file).kbps == pytest.approx(2 * 4 * 44_100 / 512 / 1000)


def test_settings_that_a_file_lacks_take_their_defaults(document: dict[str, Any]) -> None:
    assert document["vqvae_config"].pop("compression") == 0.3
    assert Manifest.from_json(document, HERE).vqvae_config.compression == 0.3


def test_codecs_of_before_the_choice_look_codes_up_by_cosine(document: dict[str, Any]) -> None:
    assert document["vqvae_config"].pop("codebook_lookup") == "euclidean"
    assert document["vqvae_config"].pop("decoder_norm") is True
    config = Manifest.from_json(document, HERE).vqvae_config
    assert (config.codebook_lookup, config.decoder_norm) == ("cosine", False)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["vqvae_config"].update(encoder_blocks=10**9), "encoder_blocks: 1000000000 is above"),
        (lambda d: d["vqvae_config"].update(encoder_blocks=10**400), "out of range"),
        (lambda d: d["vqvae_config"].update(width="16"), "'16' is not a whole number"),
        (lambda d: d["vqvae_config"].update(width=True), "True is not a whole number"),
        (lambda d: d["vqvae_config"].update(width=[[16]]), "is not a whole number"),
        (lambda d: d["vqvae_config"].update(invented=1), "unknown setting 'invented'"),
        (lambda d: d.update(vqvae_config=[]), "vqvae_config is not an object"),
        (lambda d: d.pop("vqvae_config"), "vqvae_config is missing"),
        (lambda d: d.pop("sha256"), "sha256 is missing"),
        (lambda d: d["sha256"].update(vqvae="x" * 64), "sha256.vqvae is not a sha256"),
        (lambda d: d["sha256"].update(prior=None), "sha256.prior is not a sha256"),
        (lambda d: d.update(sample_rate=48_000), "sample_rate does not agree"),
        (lambda d: d.update(channels=True), "channels is not a whole number"),
        (lambda d: d.update(has_prior=1), "has_prior is not true or false"),
        (lambda d: d.update(metadata=None), "metadata is not an object"),
        (lambda d: d["prior_config"].update(num_quantizers=3), "prior_config has 3 levels, the codec 2"),
        (lambda d: d["prior_config"].update(codebook_size=32), "has 32 codes a level, the codec 16"),
        (lambda d: d["prior_config"].update(num_layers=10**9), "num_layers\\): 1000000000 is above"),
        (lambda d: d.update(prior_codec_sha256=None), "prior_codec_sha256 is not a sha256"),
        (lambda d: d["codebook_health"].pop(), "codebook_health has 1 levels, the codec 2"),
        (lambda d: d["codebook_health"][0].pop("entropy"), "codebook_health.entropy is missing"),
        (lambda d: d["codebook_health"][0].update(perplexity=10**400), "perplexity is not a finite number"),
        (lambda d: d["codebook_health"].__setitem__(0, 3), "codebook_health holds something"),
    ],
)
def test_a_wrong_document_is_refused_by_key(document: dict[str, Any], change: Change, reason: str) -> None:
    wrong = copy.deepcopy(document)
    change(wrong)
    with pytest.raises(BundleError, match=reason) as caught:
        Manifest.from_json(wrong, HERE)
    assert str(caught.value).startswith("model.distill is not usable: ")
