"""Wrong arguments in Python: one sentence that names the argument, or Python's TypeError for its number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import distill_ray
from distill_ray import DistillError, Model
from distill_ray.argument_types import checks_arguments, shown
from distill_ray.bundle import LoadedVQModel
from distill_ray.errors import ConfigError

RATE = 8_000
AUDIO_T = np.sin(np.arange(RATE) / 9).astype(np.float32)
CODES_QF = np.zeros((3, 4), np.int64)

# (the call, what its message has)
MODEL_CALLS: list[tuple[Callable[[Model], object], str]] = [
    (lambda m: m.generate(seconds="x"), "seconds: 'x' is not a number"),
    (lambda m: m.generate(seconds=float("nan")), "seconds: nan is not a finite number"),
    (lambda m: m.generate(seed=1.5), "seed: 1.5 is not a whole number"),
    (lambda m: m.generate(temperature="hot"), "temperature: 'hot' is not a number"),
    (lambda m: m.generate(top_p=0), "top_p: 0 must be greater than 0.0"),
    (lambda m: m.generate(prompt=3), "prompt must be a path, or audio and its rate"),
    (lambda m: m.generate(prompt=AUDIO_T), "prompt must be a path, or audio and its rate"),
    (lambda m: m.generate(prompt=(RATE, AUDIO_T)), "sample_rate must be from 1000 to 768000 Hz, not an? "),
    (lambda m: m.encode("a.wav", RATE), "audio must be an array or a tensor, not 'a.wav'; encode_file"),
    (lambda m: m.encode(None, RATE), "audio must be an array or a tensor, not None"),
    (lambda m: m.encode(3, RATE), "audio must be an array or a tensor, not 3"),
    (lambda m: m.encode([[1, 2], [3]], RATE), "the channels of audio must be of one length"),
    (lambda m: m.encode(np.array(["a"]), RATE), "audio must be of floats or integers"),
    (lambda m: m.encode(AUDIO_T, float("nan")), "sample_rate must be from 1000 to 768000 Hz, not nan"),
    (lambda m: m.encode(AUDIO_T, "8000"), "not '8000'"),
    (lambda m: m.encode(AUDIO_T[None, None], RATE), r"\[channels, samples\], not \(1, 1, 8000\)"),
    (lambda m: m.encode(np.stack([AUDIO_T] * 2, 1), RATE), r"give it as \[channels, samples\]"),
    (lambda m: m.encode(AUDIO_T, RATE, levels=99), "levels must be from 1 to the model's 3, not 99"),
    (lambda m: m.decode(None), r"codes must be integers of shape \[levels, frames\], not None"),
    (lambda m: m.decode("a"), "not 'a'"),
    (lambda m: m.decode(CODES_QF - 1), "codes must be from 0 to 15"),
    (lambda m: m.decode(CODES_QF / 2), "codes must be integers, not torch.float64"),
    (lambda m: m.decode(CODES_QF).save(None), "path: None is not a path"),
    (lambda m: m.decode(CODES_QF).save("a.xyz"), "names no audio format"),
    (lambda m: m.vary(None), "audio must be a path, or audio and its rate"),
    (lambda m: m.vary((AUDIO_T, RATE), "a"), "strength: 'a' is not a number"),
    (lambda m: m.fill((AUDIO_T, RATE), 0.4, 0.2), "start: 0.4 s is not before the end"),
    (lambda m: m.loop("a"), "seconds: 'a' is not a number"),
    (lambda m: m.morph(None, (AUDIO_T, RATE)), "first must be a path, or audio and its rate"),
    (lambda m: distill_ray.generate_samples("m.distill", out_dir="x"), "loaded: 'm.distill' is not a model"),
    (lambda m: distill_ray.generate_samples(m, out_dir=3), "out_dir: 3 is not a path"),
    (lambda m: distill_ray.encode_file(m, None, "x.codes"), "audio: None is not a path"),
    (lambda m: distill_ray.encode_file(m, "no.wav", "x.codes"), "no.wav cannot be used: it does not exist"),
    (lambda m: distill_ray.decode_folder(m, 3, "x"), "folder: 3 is not a path"),
    (lambda m: distill_ray.evaluate_model(m, "c"), "corpus: 'c' is not a corpus, as distill_ray.open_corpus"),
]
CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: distill_ray.load(None), "path: None is not a path"),
    (lambda: distill_ray.load("m.distill", device=3), "device: 3 is not a text"),
    (lambda: distill_ray.load_model_v2(None), "path: None is not a path"),
    (
        lambda: distill_ray.save_model_v2("a", None, metadata={}, codebook_health=()),
        "a was not written: None is no network that has weights",
    ),
    (lambda: distill_ray.save_prior_to_model("a", 3, prior_metadata={}), "a does not exist"),
    (lambda: distill_ray.train(None), "data: None is not a path"),
    (lambda: distill_ray.train(["a"]), r"data: \['a'\] is not a path"),
    (lambda: distill_ray.train("a", out=3), "out: 3 is not a path"),
    (lambda: distill_ray.train("a", name=3), "name: 3 is not a text"),
    (lambda: distill_ray.train("a", progress="no"), "progress: 'no' is not True or False"),
    (lambda: distill_ray.train("a", minutes=-1), "minutes: -1 must be greater than 0"),
    (lambda: distill_ray.train("a", minutes="x"), "minutes: 'x' is not a number"),
    (lambda: distill_ray.train("a", sizes="x"), r"sizes: no such argument; did you mean size\?"),
    (lambda: distill_ray.run(None), "sources: None is not a path or a list of paths"),
    (lambda: distill_ray.run(3), "sources: 3 is not a path or a list of paths"),
    (lambda: distill_ray.run("a", tune="no"), "tune: 'no' is not True or False"),
    (lambda: distill_ray.run("a", codebook_sizes=3), "codebook_sizes: 3 is below the least"),
    (lambda: distill_ray.open_corpus(None), "uri: None is not a path"),
    (lambda: distill_ray.ensure_corpus(3), "data: 3 is not a path"),
    (lambda: distill_ray.prepare_corpus("a", "b", config=3), "config: 3 is not a CorpusConfig"),
    (lambda: distill_ray.generate_stream(None), "loaded: None is not a model, as distill_ray.load gives it"),
    (lambda: distill_ray.VQVAE(None), "config: None is not a VQVAEConfig"),
    (lambda: distill_ray.CodePrior({}), "config: {} is not a PriorConfig"),
    (lambda: distill_ray.get_adaptive_vqvae_config(None), "file_count: None is not a whole number"),
    (lambda: distill_ray.get_adaptive_prior_config("a"), "file_count: 'a' is not a whole number"),
    (lambda: distill_ray.flatten_codes(None), "codes_BQT: None is not a Tensor"),
    (lambda: distill_ray.unflatten_codes([1], 3), r"flat_BS: \[1\] is not a Tensor"),
    (lambda: distill_ray.check_memorization(train_loss="a", val_loss=1.0), "train_loss: 'a' is not a number"),
]


def test_a_model_s_wrong_arguments_are_named(make_loaded, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = Model(make_loaded())
    for call, message in MODEL_CALLS:
        with pytest.raises(DistillError, match=message) as refused:
            call(model)
        assert "--" not in str(refused.value).partition("`")[0], "messages name arguments, not flags"
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_wrong_arguments_are_named(call, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DistillError, match=message):
        call()
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_what_load_gives_is_taken_by_the_functions_on_files(make_loaded, make_audio, tmp_path) -> None:
    model = Model(make_loaded())
    report = distill_ray.generate_samples(model, seconds=0.1, out_dir=tmp_path / "out")
    assert Path(report.files[0]).is_file()
    codes = tmp_path / "a.codes"
    distill_ray.encode_file(model, make_audio(0.5), codes)
    distill_ray.decode_file(model.loaded, str(codes), tmp_path / "a.wav")
    assert (tmp_path / "a.wav").is_file()


def test_a_number_of_arguments_that_is_wrong_is_python_s_own_error() -> None:
    with pytest.raises(TypeError, match=r"^load\(\) missing 1 required positional argument: 'path'"):
        distill_ray.load()
    with pytest.raises(TypeError, match=r"^load\(\) got an unexpected keyword argument 'where'"):
        distill_ray.load("m.distill", where=3)


def test_numbers_of_numpy_are_numbers_and_none_only_where_it_is_allowed() -> None:
    @checks_arguments
    def function(
        number: float, count: int = 1, flag: bool = False, model: LoadedVQModel | None = None
    ) -> None:
        pass

    function(np.float32(1), np.int64(2), np.bool_(True), None)
    function(3, count=4)
    with pytest.raises(ConfigError) as refused:
        function(None, 1.5, 1, 2)
    assert [str(each) for each in refused.value.problems] == [
        "number: None is not a number",
        "count: 1.5 is not a whole number",
        "flag: 1 is not True or False",
        "model: 2 is not a model, as distill_ray.load gives it",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), ("a" * 100, "'aaaaaaaaaaaa...aaaaaaaaaaaaa'"), (torch.zeros(2), "a Tensor")]
)
def test_a_value_is_shown_in_one_short_line(value, text) -> None:
    assert shown(value) == text
