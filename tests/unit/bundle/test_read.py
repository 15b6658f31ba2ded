from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from distill_ray.bundle import (
    LoadedVQModel,
    load_model_v2,
    model_hash,
    read_manifest,
    save_model_v2,
    verify,
)
from distill_ray.bundle.container import digest, open_container, write_container
from distill_ray.bundle.format import FORMAT, VERSION
from distill_ray.errors import BundleError
from distill_ray.prior import CodePrior, Controls
from distill_ray.vqvae import VQVAE, LevelHealth


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change a model file's document and arrays, and make every checksum right again."""
    with open_container(path, kind=FORMAT, version=VERSION, noun="") as container:
        document, arrays = container.document, {name: container.read(name) for name in container.tensors}
    change(document, arrays)
    for part, config in (("vqvae", "vqvae_config"), ("prior", "prior_config")):
        if document[config] is not None:
            mine = {name: array for name, array in arrays.items() if name.startswith(f"{part}.")}
            document["sha256"][part] = digest(document[config], mine)
    write_container(path, arrays, document, kind=FORMAT, version=VERSION)


def test_a_file_without_a_prior(codec_file: Path, make_codec: Callable[..., VQVAE]) -> None:
    loaded = load_model_v2(codec_file)
    assert isinstance(loaded, LoadedVQModel)
    assert (loaded.prior, loaded.prior_config, loaded.prior_metadata) == (None, None, None)
    expected = make_codec().state_dict()
    assert expected.keys() == loaded.model.state_dict().keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert loaded.vqvae_config == make_codec().config
    assert loaded.metadata["corpus"] == {"digest": "ab" * 32, "files": 3}
    assert loaded.codebook_health[0] == LevelHealth(
        utilization=0.5, perplexity=7.25, dead_codes=8, entropy=0.7
    )
    assert loaded.codec_sha256 == model_hash(codec_file)
    assert loaded.device == torch.device("cpu")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_a_file_with_a_prior(full_file: Path, make_prior: Callable[..., CodePrior]) -> None:
    loaded = load_model_v2(str(full_file))
    assert loaded.prior is not None
    assert not loaded.prior.training
    assert loaded.prior_config == make_prior().config
    assert loaded.prior_metadata == {"best_perplexity": 3.5}
    codes_BQT = torch.randint(0, 16, (2, 2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert loaded.prior(codes_BQT).loss == make_prior().eval()(codes_BQT).loss


def test_ema_codebooks_come_back_too(
    tmp_path: Path, make_codec: Callable[..., VQVAE], save: Callable[..., Path]
) -> None:
    codec = make_codec(codebook_learning="ema")
    codec.quantizer.ema_counts_QK.fill_(3.0)
    loaded = load_model_v2(save(tmp_path / "ema", codec))
    assert torch.equal(loaded.model.quantizer.ema_counts_QK, torch.full((2, 16), 3.0))


def test_loading_leaves_the_random_state_alone(full_file: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_model_v2(full_file)
    assert torch.equal(torch.rand(4), expected)


def test_the_prior_s_code_is_loaded_only_for_a_prior(codec_file: Path, full_file: Path) -> None:
    script = (
        "import sys; from distill_ray.bundle import load_model_v2\n"
        "for path in sys.argv[1:]:\n"
        "    load_model_v2(path); print('distill_ray.prior.model' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(codec_file), str(full_file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]


def test_the_manifest_is_read_without_torch(full_file: Path) -> None:
    script = (
        "import sys; from distill_ray.bundle import read_manifest, verify, file_facts;"
        "verify(sys.argv[1]); print(file_facts(sys.argv[1]).bytes, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(full_file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(full_file.stat().st_size), "False"]


Arrays = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d, a: a.pop("vqvae.quantizer.codebooks_QKD"), "codebooks_QKD is missing"),
        (lambda d, a: a.update({"vqvae.extra": np.zeros(1, "f4")}), "no place for the tensor vqvae.extra"),
        (lambda d, a: a.update({"stray": np.zeros(1, "f4")}), "'stray' belongs to no part"),
        (lambda d, a: d["vqvae_config"].update(width=32), r"config implies F32 \[.*32"),
        (lambda d, a: d["vqvae_config"].update(encoder_blocks=64), "is missing"),
        (
            lambda d, a: d["vqvae_config"].update(width=4096, encoder_blocks=64),
            "a larger model than the file",
        ),
        (lambda d, a: d["prior_config"].update(hidden_size=8192, num_layers=96), "a larger model than"),
        (
            lambda d, a: d["prior_config"].update(
                hidden_size=8192, num_heads=1, context_frames=65_536, pattern="flatten"
            ),
            "context is absurdly long",
        ),
        (
            lambda d, a: a.update({"vqvae.decoder.norm.weight": np.zeros(16, "f8")}),
            r"is F64 \[16\] where its config implies F32 \[16\]",
        ),
        (lambda d, a: a["vqvae.decoder.norm.weight"].__setitem__(0, np.nan), "norm.weight holds values"),
        (lambda d, a: a["prior.heads_QKE"].__setitem__((0, 0, 0), -np.inf), "heads_QKE holds values"),
    ],
)
def test_a_hostile_file_with_right_checksums_is_refused(
    full_file: Path, change: Callable[[Any, Arrays], object], reason: str
) -> None:
    rewrite(full_file, change)
    with pytest.raises(BundleError, match=reason) as caught:
        load_model_v2(full_file)
    assert "\n" not in str(caught.value)


def test_prior_tensors_without_a_prior_are_refused(full_file: Path) -> None:
    def drop(document: dict[str, Any], arrays: Arrays) -> None:
        document.update(has_prior=False, prior_config=None, prior_metadata=None, prior_codec_sha256=None)

    rewrite(full_file, drop)
    with pytest.raises(BundleError, match="belongs to no part"):
        read_manifest(full_file)


def test_a_file_of_an_earlier_config_can_get_a_prior(
    full_file: Path, codec_file: Path, make_prior: Callable[..., CodePrior]
) -> None:
    """A setting that a file lacks must not appear in it: the codec's hash covers the config as written."""
    from distill_ray.bundle import save_prior_to_model

    rewrite(codec_file, lambda document, arrays: document["vqvae_config"].pop("compression"))
    identity = model_hash(codec_file)
    save_prior_to_model(codec_file, make_prior(), prior_metadata={})
    assert verify(codec_file).codec_sha256 == identity
    assert load_model_v2(codec_file).vqvae_config.compression == 0.3


def test_damage_anywhere_is_noticed_or_harmless(full_file: Path) -> None:
    """Flipped bits and cut ends: a BundleError in one sentence, or exactly the same model."""
    good = full_file.read_bytes()
    tensors = {name: array.tobytes() for name, array in load_file(full_file).items()}
    random = np.random.default_rng(0)
    header = int.from_bytes(good[:8], "little") + 8
    offsets = [*range(24), *random.integers(8, header, 60), *random.integers(header, len(good), 30)]
    refused, sentences = 0, []
    for offset in offsets:
        for damaged in (
            good[:offset] + bytes([good[offset] ^ (1 << int(random.integers(8)))]) + good[offset + 1 :],
            good[:offset],
        ):
            full_file.write_bytes(damaged)
            try:
                loaded = load_model_v2(full_file)
            except BundleError as error:
                refused += 1
                sentences.append(str(error))
                continue
            assert loaded.prior is not None
            state = {f"vqvae.{name}": tensor for name, tensor in loaded.model.state_dict().items()}
            state |= {f"prior.{name}": tensor for name, tensor in loaded.prior.state_dict().items()}
            assert {name: tensor.numpy().tobytes() for name, tensor in state.items()} == tensors
            full_file.write_bytes(good)
            assert loaded.metadata == read_manifest(full_file).metadata
    assert refused > 0.97 * 2 * len(offsets)
    assert not any("\n" in sentence for sentence in sentences)


def with_prior_metadata(path: Path, codec: VQVAE, prior: CodePrior, **metadata: Any) -> Path:
    return save_model_v2(path, codec, metadata={}, codebook_health=(), prior=prior, prior_metadata=metadata)


def test_temperatures_and_controls_come_back(
    tmp_path: Path, make_codec: Callable[..., VQVAE], make_prior: Callable[..., CodePrior]
) -> None:
    controls = Controls(labels=("a", "b"), scales={"loudness": tuple(map(float, range(-40, -19)))})
    path = with_prior_metadata(
        tmp_path / "m.distill",
        make_codec(),
        make_prior(controls=1, labels=2),
        temperatures=[{"temperature": 0.5}, {"temperature": 1.25}],
        controls=controls.to_json(),
    )
    loaded = load_model_v2(path)
    assert loaded.prior is not None
    assert loaded.prior.temperature_Q.tolist() == [0.5, 1.25]
    assert loaded.controls == controls


def test_a_prior_of_before_has_temperatures_of_one_and_no_controls(
    tmp_path: Path, make_codec: Callable[..., VQVAE], make_prior: Callable[..., CodePrior]
) -> None:
    loaded = load_model_v2(with_prior_metadata(tmp_path / "m.distill", make_codec(), make_prior()))
    assert loaded.prior is not None
    assert loaded.prior.temperature_Q.tolist() == [1.0, 1.0]
    assert loaded.controls is None


@pytest.mark.parametrize(
    "metadata",
    [
        {"temperatures": "hot"},
        {"temperatures": [1.0, 1.0]},
        {"temperatures": [{"temperature": 1.0}]},
        {"temperatures": [{"temperature": 0.0}, {"temperature": 1.0}]},
        {"temperatures": [{"temperature": "nan"}, {"temperature": 1.0}]},
        {"controls": []},
        {"controls": {"labels": ["a"], "scales": {"loudness": None}}},
        {"controls": {"labels": ["a", "b"], "scales": {}}},
        {"controls": {"labels": ["a", "b"], "scales": {"loudness": [0.0]}}},
    ],
)
def test_damaged_temperatures_and_controls_are_refused(
    tmp_path: Path,
    make_codec: Callable[..., VQVAE],
    make_prior: Callable[..., CodePrior],
    metadata: dict[str, Any],
) -> None:
    path = with_prior_metadata(
        tmp_path / "m.distill", make_codec(), make_prior(controls=1, labels=2), **metadata
    )
    with pytest.raises(BundleError, match=r"prior_metadata\.(temperatures|controls)"):
        load_model_v2(path)


def test_openings_come_back_and_codes_that_the_prior_lacks_are_refused(
    tmp_path: Path,
    make_codec: Callable[..., VQVAE],
    make_prior: Callable[..., CodePrior],
    save: Callable[..., Path],
) -> None:
    prior = make_prior(openings=3)
    prior.openings_NQT.copy_(torch.arange(prior.openings_NQT.numel()).view_as(prior.openings_NQT) % 5)
    path = save(tmp_path / "m.distill", make_codec(), prior)
    loaded = load_model_v2(path)
    assert loaded.prior is not None
    assert torch.equal(loaded.prior.openings_NQT, prior.openings_NQT)
    for code in (-1, prior.config.codebook_size):
        rewrite(path, lambda _, arrays, code=code: arrays["prior.openings_NQT"].fill(code))
        with pytest.raises(BundleError, match="begins with codes that it does not have"):
            load_model_v2(path)
