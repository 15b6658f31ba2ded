from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_ray.bundle.container import digest, open_container, write_container
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import BundleError
from distill_ray.generate import Codes, load_codes, save_codes
from distill_ray.generate.codes import FORMAT, VERSION, check_fit

CODES = Codes(
    codes_QF=torch.tensor([[0, 5, 16_383], [1, 2, 3]]),
    samples=130,
    sample_rate=8_000,
    channels=2,
    frame_hop=64,
    codebook_size=16_384,
    model_sha256="0" * 64,
)
CONFIG = VQVAEConfig(n_fft=128, hop=32, codebook_size=16_384, num_quantizers=2)


def rewrite(path: Path, **changes: Any) -> None:
    with open_container(path, kind=FORMAT, version=VERSION, noun="") as container:
        document, arrays = dict(container.document), {"codes": container.read("codes")}
    del document["sha256"]
    document.update({key: value for key, value in changes.items() if key != "codes"})
    arrays["codes"] = changes.get("codes", arrays["codes"])
    document["sha256"] = digest(document, arrays)
    write_container(path, arrays, document, kind=FORMAT, version=VERSION)


def test_codes_come_back(tmp_path: Path) -> None:
    save_codes(tmp_path / "a", CODES)
    loaded = load_codes(tmp_path / "a")
    assert torch.equal(loaded.codes_QF, CODES.codes_QF)
    assert loaded.codes_QF.dtype == torch.int64
    assert dataclasses.replace(loaded, codes_QF=CODES.codes_QF) == CODES


def test_damage_is_noticed_anywhere(tmp_path: Path) -> None:
    save_codes(tmp_path / "a", CODES)
    good = (tmp_path / "a").read_bytes()
    refused = 0
    for offset in range(len(good)):
        (tmp_path / "a").write_bytes(good[:offset] + bytes([good[offset] ^ 4]) + good[offset + 1 :])
        try:
            loaded = load_codes(tmp_path / "a")
        except BundleError:
            refused += 1
            continue
        assert dataclasses.replace(loaded, codes_QF=CODES.codes_QF) == CODES
        assert torch.equal(loaded.codes_QF, CODES.codes_QF)
    assert refused >= len(good) - 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"samples": 193}, r"\[2, 3\] codes do not make 193 samples"),
        ({"samples": 0}, "samples is not positive"),
        ({"frame_hop": "64"}, "frame_hop is not a whole number"),
        ({"codebook_size": 16_383}, "codes outside 0…16382"),
        ({"codes": torch.tensor([[-1, 0, 0]]).short().numpy()}, "codes outside"),
        ({"codes": torch.zeros(2, 3, dtype=torch.int64).numpy()}, "of dtype I16"),
        ({"codes": torch.zeros(0, 3, dtype=torch.int16).numpy()}, "do not make"),
        ({"codes": torch.zeros(3, dtype=torch.int16).numpy()}, "do not make"),
        ({"model_sha256": "x"}, "model_sha256 is not a sha256"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    save_codes(tmp_path / "a", CODES)
    rewrite(tmp_path / "a", **changes)
    with pytest.raises(BundleError, match=reason):
        load_codes(tmp_path / "a")


def test_a_model_file_is_no_codes_file(tmp_path: Path) -> None:
    write_container(tmp_path / "m", {}, {}, kind="distill_model", version="2")
    with pytest.raises(BundleError, match=r"another kind \(distill_model\); give a codes file"):
        load_codes(tmp_path / "m")


def test_codes_fit_their_own_model_and_others_only_by_force(tmp_path: Path) -> None:
    where = tmp_path / "a"
    check_fit(CODES, CONFIG, "0" * 64, where=where, force=False)
    with pytest.raises(BundleError, match="made by another model; decode it with that one, or add --force"):
        check_fit(CODES, CONFIG, "1" * 64, where=where, force=False)
    check_fit(CODES, CONFIG, "1" * 64, where=where, force=True)
    for change, reason in (
        ({"codebook_size": 8192}, "it has codes up to 16383 and the model 8192 codes"),
        ({"hop": 16}, "it has 64 samples a frame and the model 32"),
    ):
        config = dataclasses.replace(CONFIG, **change)
        with pytest.raises(BundleError, match=reason):
            check_fit(CODES, config, "1" * 64, where=where, force=True)
    deep = dataclasses.replace(CODES, codes_QF=torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(BundleError, match="it has 3 levels and the model 2"):
        check_fit(deep, CONFIG, "1" * 64, where=where, force=True)
