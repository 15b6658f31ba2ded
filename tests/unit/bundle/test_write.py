from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from distill_ray.bundle import (
    load_model_v2,
    model_hash,
    read_manifest,
    save_model_v2,
    save_prior_to_model,
    verify,
)
from distill_ray.errors import BundleError
from distill_ray.prior import CodePrior
from distill_ray.vqvae import VQVAE

MakeCodec = Callable[..., VQVAE]
MakePrior = Callable[..., CodePrior]
Save = Callable[..., Path]


def test_the_same_model_gives_the_same_bytes(
    tmp_path: Path, make_codec: MakeCodec, make_prior: MakePrior, save: Save
) -> None:
    one = save(tmp_path / "one", make_codec(), make_prior())
    other = save(tmp_path / "other", make_codec(), make_prior())
    assert one.read_bytes() == other.read_bytes()


def test_provenance_is_completed_and_other_metadata_kept(tmp_path: Path, make_codec: MakeCodec) -> None:
    path = save_model_v2(
        tmp_path / "m", make_codec(), metadata={"note": "n", "provenance": {"seed": 5}}, codebook_health=()
    )
    metadata = read_manifest(path).metadata
    assert metadata["note"] == "n"
    assert (metadata["corpus"], metadata["loss_history"]) == ({}, [])
    provenance = metadata["provenance"]
    assert (provenance["seed"], provenance["run_id"], provenance["ray_job_id"]) == (5, None, None)
    assert provenance["versions"]["torch"] == torch.__version__
    assert read_manifest(path).codebook_health == ()


def test_weights_that_are_not_finite_are_not_written(
    tmp_path: Path, make_codec: MakeCodec, make_prior: MakePrior, save: Save, codec_file: Path
) -> None:
    before = codec_file.read_bytes()
    for value in (float("nan"), float("inf")):
        broken = make_codec()
        with torch.no_grad():
            broken.decoder.norm.weight[0] = value
        with pytest.raises(BundleError, match=r"vqvae\.decoder\.norm\.weight holds values"):
            save(codec_file, broken)
    prior = make_prior()
    with torch.no_grad():
        prior.heads_QKE[0, 0, 0] = float("nan")
    with pytest.raises(BundleError, match=r"prior\.heads_QKE"):
        save_prior_to_model(codec_file, prior, prior_metadata={})
    assert codec_file.read_bytes() == before
    assert list(codec_file.parent.iterdir()) == [codec_file]


def test_a_prior_of_another_shape_is_refused(
    tmp_path: Path, make_codec: MakeCodec, make_prior: MakePrior, save: Save, codec_file: Path
) -> None:
    with pytest.raises(BundleError, match="the prior has 32 codes a level, the codec 16"):
        save(tmp_path / "new", make_codec(), make_prior(codebook_size=32))
    with pytest.raises(BundleError, match="the prior has 3 levels, the codec 2"):
        save_prior_to_model(codec_file, make_prior(num_quantizers=3), prior_metadata={})
    assert not (tmp_path / "new").exists()


def test_adding_and_replacing_a_prior_keeps_the_codec_to_the_byte(
    codec_file: Path, make_prior: MakePrior
) -> None:
    tensors, manifest, identity = (
        load_file(codec_file),
        read_manifest(codec_file).to_json(),
        model_hash(codec_file),
    )
    for seed in (1, 2):
        prior = make_prior(seed)
        assert save_prior_to_model(codec_file, prior, prior_metadata={"round": seed}) == codec_file
        after = load_file(codec_file)
        assert {name for name in after if name.startswith("vqvae.")} == set(tensors)
        for name, array in tensors.items():
            assert after[name].tobytes() == array.tobytes()
        loaded = load_model_v2(codec_file)
        assert loaded.prior_metadata == {"round": seed}
        assert loaded.prior is not None
        assert torch.equal(loaded.prior.heads_QKE, prior.heads_QKE)
        assert model_hash(codec_file) == identity
    document = verify(codec_file).to_json()
    prior_keys = {"has_prior", "prior_config", "prior_metadata", "prior_codec_sha256", "sha256"}
    for key in set(manifest) - prior_keys:
        assert document[key] == manifest[key]
    assert document["prior_codec_sha256"] == identity


def test_a_prior_for_a_codec_that_is_gone_is_refused(
    codec_file: Path, make_codec: MakeCodec, make_prior: MakePrior, save: Save
) -> None:
    identity = model_hash(codec_file)
    save_prior_to_model(codec_file, make_prior(), prior_metadata={}, codec_sha256=identity)
    save(codec_file, make_codec(seed=9))
    with pytest.raises(BundleError, match="no longer holds the codec"):
        save_prior_to_model(codec_file, make_prior(), prior_metadata={}, codec_sha256=identity)
    assert not read_manifest(codec_file).has_prior


def test_a_prior_cannot_be_added_to_what_is_no_model(tmp_path: Path, make_prior: MakePrior) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        save_prior_to_model(tmp_path / "none", make_prior(), prior_metadata={})
    assert list(tmp_path.iterdir()) == []


def test_concurrent_writers_leave_a_whole_file_at_every_moment(
    codec_file: Path, make_prior: MakePrior
) -> None:
    priors = [make_prior(seed) for seed in range(4)]
    heads = [prior.heads_QKE.detach().clone() for prior in priors]
    failures: list[Any] = []

    def write(prior: CodePrior) -> None:
        try:
            for _ in range(5):
                save_prior_to_model(codec_file, prior, prior_metadata={})
                verify(codec_file)
        except BundleError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(prior,)) for prior in priors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    prior = load_model_v2(codec_file).prior
    assert prior is not None
    assert sum(torch.equal(prior.heads_QKE, head) for head in heads) == 1
    assert list(codec_file.parent.iterdir()) == [codec_file]
