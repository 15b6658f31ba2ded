from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import distill_ray
from distill_ray.bundle import LoadedVQModel
from distill_ray.errors import AudioError, BundleError, CodeShapeError, ConfigError, UsageError
from distill_ray.generate import encode_file, generate_samples, load_codes
from distill_ray.generate.arrays import to_pcm
from distill_ray.generate.model import Model, Sound, load

MakeLoaded = Callable[..., LoadedVQModel]
MakeAudio = Callable[..., Path]
RATE, HOP = 8_000, 64


@pytest.fixture
def model(make_loaded: MakeLoaded) -> Model:
    return load(str(make_loaded().path), device="cpu")


def test_generate_is_the_first_sound_of_the_command(tmp_path: Path, model: Model) -> None:
    audio_CT, rate = model.generate(0.4, seed=3, temperature=0.9, top_k=5)
    assert (rate, audio_CT.shape, audio_CT.dtype) == (RATE, (1, 3_200), torch.float32)
    report = generate_samples(
        model.loaded,
        count=2,
        seconds=0.4,
        seed=3,
        sampling=distill_ray.SamplingConfig(temperature=0.9, top_k=5),
        out_dir=str(tmp_path / "out"),
    )
    written_T, _ = soundfile.read(report.files[0], dtype="float32")
    assert np.abs(audio_CT[0].numpy() - written_T).max() <= 0.5 / 32_768 + 1e-7


def test_encode_and_decode_are_those_of_files(tmp_path: Path, model: Model, make_audio: MakeAudio) -> None:
    path = make_audio(0.5, channels=2, rate=11_025)
    encode_file(model.loaded, str(path), str(tmp_path / "codes"))
    audio_TC, rate = soundfile.read(path, dtype="float32", always_2d=True)
    codes_QF = model.encode(audio_TC.T, rate)
    assert torch.equal(codes_QF, load_codes(tmp_path / "codes").codes_QF)
    assert torch.equal(model.encode(torch.from_numpy(audio_TC.T.copy()), rate, levels=2), codes_QF[:2])
    sound = model.decode(codes_QF, samples=4_000)
    assert isinstance(sound, Sound)
    assert sound.audio_CT.shape == (1, 4_000)
    assert sound.seconds == 0.5
    assert model.decode(codes_QF.numpy()).audio_CT.shape == (1, codes_QF.shape[1] * HOP)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.int16, 32_768.0), (np.int32, 2.0**31), (np.float64, 1.0), (np.float32, 1.0)]
)
def test_integers_have_full_scale_by_their_type(model: Model, dtype: Any, scale: float) -> None:
    wave_T = 0.5 * np.sin(np.arange(2_000) / 7)
    given = (wave_T * scale).astype(dtype)
    pcm_CT = to_pcm(given, RATE, model.loaded.vqvae_config)
    assert np.abs(pcm_CT[0] - wave_T * 32_768).max() <= 1.0


def test_a_prompt_is_a_file_or_an_array(model: Model, make_audio: MakeAudio) -> None:
    path = make_audio(0.3)
    audio_T, rate = soundfile.read(path, dtype="int16")
    from_file = model.generate(0.6, prompt=path)
    assert torch.equal(model.generate(0.6, prompt=(audio_T, rate)).audio_CT, from_file.audio_CT)
    assert not torch.equal(model.generate(0.6).audio_CT, from_file.audio_CT)


def test_a_sound_saves_itself_and_says_what_it_is(tmp_path: Path, model: Model) -> None:
    sound = model.generate(0.25)
    path = sound.save(str(tmp_path / "x.flac"))
    assert soundfile.info(path).frames == 2_000
    assert repr(sound) == "Sound(0.250 s, 1 channel, 8000 Hz)"
    assert len(repr(model).splitlines()) <= 5
    assert "3 levels × 16" in repr(model)


@pytest.mark.parametrize(
    ("audio", "rate", "words"),
    [
        (np.zeros((2, 2, 100)), RATE, r"shape \[samples\] or \[channels, samples\], not \(2, 2, 100\)"),
        (np.zeros((4_000, 2)), RATE, "give it as"),
        (np.zeros(0), RATE, "no samples"),
        (np.full(100, np.nan), RATE, "NaN or infinite"),
        (np.array(["a", "b"]), RATE, "of floats or integers"),
        (np.zeros(100), 10, "sample_rate must be from 1000"),
        (np.zeros(100), "8000", "sample_rate must be from 1000 to 768000 Hz, not '8000'"),
        ([[1, 2], [3]], RATE, "channels of audio must be of one length"),
    ],
)
def test_audio_that_cannot_be_used(model: Model, audio: Any, rate: int, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        model.encode(audio, rate)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (torch.zeros(3, dtype=torch.long), r"shape \[levels, frames\] with 1 to 3 levels, not \[3\]"),
        (torch.zeros(4, 5, dtype=torch.long), r"not \[4, 5\]"),
        (torch.zeros(3, 5), "must be integers, not torch.float32"),
        (torch.full((3, 5), 16), "from 0 to 15"),
        ([[0, 1], [0]], r"integers of shape \[levels, frames\]"),
        ("x", r"integers of shape \[levels, frames\]"),
    ],
)
def test_codes_that_do_not_fit(model: Model, codes: torch.Tensor, words: str) -> None:
    with pytest.raises(CodeShapeError, match=words):
        model.decode(codes)


def test_messages_name_arguments(make_loaded: MakeLoaded, model: Model) -> None:
    with pytest.raises(CodeShapeError, match="2 frames of codes make 65 to 128 samples, not 129"):
        model.decode(torch.zeros(3, 2, dtype=torch.long), samples=129)
    with pytest.raises(CodeShapeError, match="levels must be from 1 to the model's 3, not 4"):
        model.encode(np.zeros(100), RATE, levels=4)
    with pytest.raises(ConfigError, match="temperature"):
        model.generate(0.1, temperature=-1)
    with pytest.raises(BundleError, match="has no prior"):
        Model(make_loaded(prior=False)).generate(0.1)


def test_codes_may_be_lists_and_unsigned(model: Model) -> None:
    expected = model.decode(torch.zeros(3, 2, dtype=torch.long)).audio_CT
    for codes in ([[0, 0]] * 3, np.zeros((3, 2), np.uint16), np.zeros((3, 2), np.uint8)):
        assert torch.equal(model.decode(codes).audio_CT, expected)


@pytest.mark.parametrize("prompt", [np.zeros(100), (np.zeros(100),), 3])
def test_a_prompt_that_is_none(model: Model, prompt: Any) -> None:
    with pytest.raises(AudioError, match=r"prompt=\(audio, sample_rate\)"):
        model.generate(0.1, prompt=prompt)


def test_functions_on_files_name_arguments(tmp_path: Path, model: Model, make_audio: MakeAudio) -> None:
    path, out = make_audio(0.3), tmp_path / "a.codes"
    distill_ray.encode_file(model.loaded, path, out)
    with pytest.raises(UsageError, match="give overwrite=True to replace it"):
        distill_ray.encode_file(model.loaded, path, out)
    with pytest.raises(ConfigError, match=r"^levels: 9 is not from 1 to the model's 3$"):
        distill_ray.encode_file(model.loaded, path, out, levels=9, overwrite=True)
    with pytest.raises(ConfigError, match=r"^count: 0 is below"):
        distill_ray.generate_samples(model.loaded, count=0, out_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"^seconds: '10' is not a number"):
        model.generate("10")  # type: ignore[arg-type]


def test_home_is_expanded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.loaded.path.parent))
    assert load(f"~/{model.loaded.path.name}").loaded.codec_sha256 == model.loaded.codec_sha256


def test_the_package_lists_its_public_names() -> None:
    assert {*distill_ray.__all__, "__version__"} == set(dir(distill_ray))
    assert {"load", "train", "run", "Model"} <= set(distill_ray.__all__)
