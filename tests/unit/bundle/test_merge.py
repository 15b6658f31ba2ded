from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from distill_ray.bundle import (
    bundle_models,
    file_facts,
    load_model_v2,
    model_hash,
    read_manifest,
    save_prior_to_model,
    verify,
)
from distill_ray.errors import BundleError, UsageError
from distill_ray.prior import CodePrior
from distill_ray.vqvae import VQVAE

MakeCodec = Callable[..., VQVAE]
Save = Callable[..., Path]


def test_a_codec_and_a_prior_are_joined_to_the_bytes_of_adding_it(
    tmp_path: Path, codec_file: Path, full_file: Path
) -> None:
    manifest = bundle_models(codec_file, full_file, tmp_path / "new" / "out.distill")
    assert manifest.has_prior
    assert (tmp_path / "new" / "out.distill").read_bytes() == full_file.read_bytes()


def test_a_prior_of_another_codec_is_refused(
    tmp_path: Path, full_file: Path, make_codec: MakeCodec, save: Save
) -> None:
    other = save(tmp_path / "other", make_codec(seed=1))
    wide = save(tmp_path / "wide", make_codec(codebook_size=32))
    out = tmp_path / "out"
    with pytest.raises(BundleError, match="learned the codes of another codec"):
        bundle_models(other, full_file, out)
    with pytest.raises(BundleError, match="it has 16 codes a level, the codec 32"):
        bundle_models(wide, full_file, out)
    with pytest.raises(BundleError, match="has no prior; add one with `distill-ray train-prior"):
        bundle_models(full_file, other, out)
    assert not out.exists()


def test_only_the_model_itself_is_replaced_unasked(
    tmp_path: Path, codec_file: Path, full_file: Path, make_codec: MakeCodec, save: Save
) -> None:
    out = save(tmp_path / "out", make_codec(seed=2))
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"exists; give --overwrite"):
        bundle_models(codec_file, full_file, out)
    assert out.read_bytes() == before
    bundle_models(codec_file, full_file, out, overwrite=True)
    assert verify(out).has_prior
    bundle_models(codec_file, full_file, codec_file)
    assert load_model_v2(codec_file).prior is not None


def test_another_prior_is_replaced_only_where_that_is_asked_for(
    tmp_path: Path, codec_file: Path, full_file: Path
) -> None:
    other = tmp_path / "other.distill"
    shutil.copyfile(codec_file, other)
    torch.manual_seed(5)
    found = read_manifest(full_file).prior
    assert found is not None
    save_prior_to_model(other, CodePrior(found.config), prior_metadata={})
    before = other.read_bytes()
    bundle_models(other, other, other)  # its own
    assert other.read_bytes() == before
    with pytest.raises(BundleError, match=r"other\.distill has another prior; add --overwrite"):
        bundle_models(other, full_file, other)
    assert other.read_bytes() == before
    bundle_models(other, full_file, other, overwrite=True)
    assert read_manifest(other).prior == found


def test_the_model_hash_is_the_codec_s_alone(
    tmp_path: Path,
    codec_file: Path,
    full_file: Path,
    make_codec: MakeCodec,
    make_prior: Callable[..., CodePrior],
    save: Save,
) -> None:
    identity = model_hash(codec_file)
    assert identity == model_hash(full_file)
    save_prior_to_model(codec_file, make_prior(seed=5), prior_metadata={})
    assert model_hash(codec_file) == identity
    assert model_hash(save(tmp_path / "seed", make_codec(seed=1))) != identity
    assert model_hash(save(tmp_path / "config", make_codec(compression=0.4))) != identity


def test_facts_count_elements(full_file: Path, codec_file: Path, make_codec: MakeCodec) -> None:
    elements = sum(tensor.numel() for tensor in make_codec().state_dict().values())
    assert file_facts(codec_file).codec_parameters == elements
    assert file_facts(codec_file).prior_parameters == 0
    arrays = load_file(full_file)
    assert file_facts(full_file).prior_parameters == sum(
        array.size for name, array in arrays.items() if name.startswith("prior.")
    )
    assert file_facts(full_file).bytes == full_file.stat().st_size


def test_verify_reads_what_the_manifest_alone_cannot_tell(full_file: Path) -> None:
    assert verify(full_file).to_json() == read_manifest(full_file).to_json()
    damaged = bytearray(full_file.read_bytes())
    damaged[-3] ^= 1
    full_file.write_bytes(damaged)
    assert read_manifest(full_file).has_prior
    with pytest.raises(BundleError, match=r"damaged \((vqvae|prior)\.\* does not match its checksum\)"):
        verify(full_file)


def test_an_old_pickle_is_named_as_such(tmp_path: Path) -> None:
    for name, zipped in (("zip", True), ("legacy", False)):
        torch.save({"a": torch.zeros(3)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        for read in (load_model_v2, read_manifest, verify, model_hash):
            with pytest.raises(BundleError, match=r"older pickle kind .* train the model again"):
                read(tmp_path / name)


@pytest.mark.parametrize("kind", ["itself", "symbolic", "hard"])
def test_the_file_with_the_prior_is_never_replaced(
    tmp_path: Path, codec_file: Path, full_file: Path, kind: str
) -> None:
    out = full_file if kind == "itself" else tmp_path / "link"
    if kind == "symbolic":
        out.symlink_to(full_file)
    elif kind == "hard":
        out.hardlink_to(full_file)
    before = full_file.read_bytes()
    with pytest.raises(UsageError, match="is read by this command and cannot be its output"):
        bundle_models(codec_file, full_file, out, overwrite=True)
    assert full_file.read_bytes() == before
