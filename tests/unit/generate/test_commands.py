"""The commands that use a finished model, through the real app in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from distill_ray.bundle import LoadedVQModel, save_model_v2
from distill_ray.cli.main import app
from distill_ray.cli.output import run

MakeLoaded = Callable[..., LoadedVQModel]
MakeAudio = Callable[..., Path]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run `distill-ray` with arguments; the exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(app, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_generate_prints_its_files_or_one_document(
    tmp_path: Path, make_loaded: MakeLoaded, invoke: Callable[..., Any]
) -> None:
    model, out = make_loaded().path, tmp_path / "out"
    line = ("generate", "-n", 2, "-d", 0.25, model, "--seed", 4, "--top-k", 5, "-o", out)
    code, stdout, _ = invoke(*line)
    assert code == 0
    assert stdout.split() == [str(out / "sample_s4_000.wav"), str(out / "sample_s4_001.wav")]
    before = (out / "sample_s4_001.wav").read_bytes()
    code, stdout, _ = invoke(*line, "--overwrite", "--json")
    document = json.loads(stdout)
    assert (code, document["samples"], document["top_k"]) == (0, 2_000, 5)
    assert (out / "sample_s4_001.wav").read_bytes() == before


def test_generate_names_every_wrong_setting_by_its_flag(
    tmp_path: Path, make_loaded: MakeLoaded, invoke: Callable[..., Any]
) -> None:
    model = make_loaded().path
    code, stdout, stderr = invoke("generate", model, "-n", 0, "-d", -1, "-o", tmp_path / "out")
    assert (code, stdout) == (2, "")
    assert "error: -n (generate.count): 0 is below" in stderr
    assert "error: -d (generate.seconds): -1.0 must be greater than" in stderr
    code, _, stderr = invoke("generate", model, "--temperature", -1, "--top-p", 2)
    assert code == 2
    assert "--temperature" in stderr
    assert "--top-p" in stderr
    assert invoke("generate", model, "--device", "cuda:99")[0] == 2


def test_encode_and_decode_round_trip(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio, invoke: Callable[..., Any]
) -> None:
    model, codes, audio = make_loaded(prior=False).path, tmp_path / "a.codes", tmp_path / "b.flac"
    code, stdout, _ = invoke("encode", model, make_audio(0.7), "-o", codes, "--levels", 2)
    assert (code, stdout.strip()) == (0, str(codes))
    code, stdout, _ = invoke("decode", model, codes, "-o", audio, "--json")
    document = json.loads(stdout)
    assert (code, document["samples"], document["levels"]) == (0, 5_600, 2)
    assert soundfile.info(audio).frames == 5_600
    other = make_loaded(prior=False, seed=1).path
    another = tmp_path / "c.flac"
    code, stdout, stderr = invoke("decode", other, codes, "-o", another)
    assert (code, stdout) == (2, "")
    assert "made by another model" in stderr
    assert invoke("decode", other, codes, "-o", another, "--force")[0] == 0


def test_what_is_there_is_replaced_only_where_that_is_asked_for(
    tmp_path: Path, make_loaded: MakeLoaded, make_audio: MakeAudio, invoke: Callable[..., Any]
) -> None:
    model, audio = make_loaded().path, make_audio(0.3)
    assert invoke("encode", model, audio, "-o", tmp_path / "a.codes")[0] == 0
    for command in (
        ("encode", model, audio, "-o", tmp_path / "b.wav"),
        ("decode", model, tmp_path / "a.codes", "-o", tmp_path / "b.wav"),
        ("generate", model, "-d", 0.2, "-n", 2, "--seed", 0, "-o", tmp_path),
    ):
        there = tmp_path / ("sample_s0_001.wav" if command[0] == "generate" else "b.wav")
        there.write_bytes(b"precious")
        code, stdout, stderr = invoke(*command)
        assert (code, stdout) == (2, "")
        assert f"error: {there} exists; give --overwrite to replace it" in stderr
        assert there.read_bytes() == b"precious"
        assert not (tmp_path / "sample_s0_000.wav").exists()
        assert invoke(*command, "--overwrite")[0] == 0
        assert there.read_bytes() != b"precious"


def test_bundle_and_info(
    tmp_path: Path, make_loaded: MakeLoaded, invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = make_loaded().path
    full_bytes = full.read_bytes()
    codec = make_loaded(prior=False).path  # the same seed: the same codec, now without its prior
    (tmp_path / "prior.distill").write_bytes(full_bytes)
    out = tmp_path / "joined.distill"
    code, stdout, _ = invoke("bundle", codec, "--prior", tmp_path / "prior.distill", "-o", out)
    assert (code, stdout.strip()) == (0, str(out))
    assert out.read_bytes() == full_bytes
    code, stdout, stderr = invoke("bundle", codec, "--prior", tmp_path / "prior.distill", "-o", out)
    assert (code, stdout) == (2, "")
    assert "give --overwrite" in stderr

    code, stdout, _ = invoke("info", out, "--verify", "--json")
    document = json.loads(stdout)
    assert (code, document["verified"], document["has_prior"]) == (0, True, True)
    assert document["file_bytes"] == len(full_bytes)
    assert document["kbps"] == pytest.approx(1.5)
    assert document["vqvae_config"]["codebook_size"] == 16
    code, stdout, _ = invoke("info", codec)
    assert code == 0
    assert "3 levels × 16, 125.0 frames/s, 1.50 kbps" in stdout
    assert "`distill-ray train-prior" in stdout
    damaged = bytearray(full_bytes)
    damaged[-1] ^= 1
    out.write_bytes(damaged)
    for words in ((), ("--verify",)):
        code, stdout, stderr = invoke("info", out, *words)
        assert (code, stdout) == (2, "")
        assert "is damaged" in stderr
    code, stdout, _ = invoke("info", out, "--no-verify")
    assert code == 0
    assert "not verified: --verify reads all of it" in stdout
    monkeypatch.setattr("distill_ray.cli.info._VERIFIED_MB", 0)  # a file that is large
    assert "not verified" in invoke("info", out)[1]
    assert invoke("info", out, "--verify")[0] == 2


def test_info_is_in_words(tmp_path: Path, make_loaded: MakeLoaded, invoke: Callable[..., Any]) -> None:
    loaded, path = make_loaded(prior=False), tmp_path / "named.distill"
    metadata = {
        "corpus": {"digest": "0123456789abcdef" * 4, "train_seconds": 362.1, "files": 83},
        "training": {"best_epoch": 3, "best_val_loss": 49.47, "exit_reason": "completed", "seed": None},
    }
    save_model_v2(path, loaded.model, metadata=metadata, codebook_health=())
    _, stdout, _ = invoke("info", path)
    assert "digest 0123456789ab, files 83, seconds in training 362.1" in stdout
    assert "best epoch 3, held-out loss 49.47, ended completed\n" in stdout
