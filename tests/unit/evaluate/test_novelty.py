"""`generate --check` and `--novel` through the real app, with training audio as what was generated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel, load_model_v2, save_prior_to_model
from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.config.prior import PriorConfig
from distill_ray.corpus import PCM_SCALE, Corpus
from distill_ray.evaluate.novelty import NoveltyCheck
from distill_ray.generate import generate as generate_module
from distill_ray.prior import CodePrior

MakeCorpus = Callable[..., Corpus]
MakeLoaded = Callable[..., LoadedVQModel]


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Corpus:
    return make_corpus((13.0,) * 6)


@pytest.fixture
def loaded(corpus: Corpus, make_loaded: MakeLoaded) -> LoadedVQModel:
    """A model whose record names the corpus as where its prior comes from."""
    torch.manual_seed(0)
    codec = make_loaded(corpus)
    config = PriorConfig(
        codebook_size=codec.vqvae_config.codebook_size,
        num_quantizers=codec.vqvae_config.num_quantizers,
        hidden_size=16,
        num_layers=1,
        num_heads=1,
        context_frames=16,
    )
    record = {"corpus": {"source": corpus.uri.removeprefix("file://"), "digest": corpus.digest}}
    save_prior_to_model(codec.path, CodePrior(config), prior_metadata=record)
    return load_model_v2(codec.path)


def excerpt(corpus: Corpus, path: Path, start: float, seconds: float) -> str:
    """A piece of the first training file at half the level; returns the file's name."""
    file = corpus.files("train")[0]
    pcm_CT = corpus.read(file).numpy()
    begin = round(start * corpus.sample_rate)
    piece_CT = pcm_CT[:, begin : begin + round(seconds * corpus.sample_rate)]
    soundfile.write(path, 0.5 * piece_CT.T / PCM_SCALE, corpus.sample_rate)
    return file.path


def test_each_second_of_a_copy_has_its_moment(corpus: Corpus, loaded: LoadedVQModel, tmp_path: Path) -> None:
    check = NoveltyCheck(loaded, corpus)
    source = excerpt(corpus, tmp_path / "copy.wav", 3.0, 6.0)
    found = check(tmp_path / "copy.wav", 0.0)
    assert not found.is_new
    assert found.share > 0.8
    assert [moment.source for moment in found.nearest] == [source] * len(found.nearest)
    assert len(found.nearest) >= 5
    times = [moment.time_s for moment in found.nearest]
    assert times == sorted(times)
    for moment in found.nearest:
        assert moment.source_time_s == pytest.approx(moment.time_s + 3.0, abs=0.1)
    assert "copies found" in found.lines()[0]
    assert f"{source} at 3." in found.lines()[1]
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.wav", 0.1 * random.standard_normal(6 * corpus.sample_rate), 8_000)
    new = check(tmp_path / "noise.wav", 2.0)
    assert new.is_new
    assert min(moment.time_s for moment in new.nearest) >= 2.0  # behind the prompt
    document = check.to_json()
    assert [sound["verdict"] for sound in document["sounds"]] == ["copies found", "none found"]
    assert json.loads(json.dumps(document)) == document


def generate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = run(app, ["generate", *map(str, arguments)])
    captured = capsys.readouterr()
    document = json.loads(captured.out) if captured.out and "--json" in arguments else captured.out
    return code, document, " ".join(captured.err.split())


def test_check_needs_no_more_than_the_record(
    corpus: Corpus, loaded: LoadedVQModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = (loaded.path, "-n", 2, "-d", 3, "--seed", 1, "-o", tmp_path / "out")
    code, document, said = generate(capsys, *request, "--check", "--json")
    assert code == 0
    assert document["check"]["corpus"] == corpus.uri
    assert [sound["file"] for sound in document["check"]["sounds"]] == document["files"]
    assert document["draws"] == [1, 1]
    assert "is not the corpus" not in said
    code, shown, said = generate(capsys, *request, "--check", "--overwrite")
    assert (code, shown.split()) == (0, document["files"])
    assert "of its seconds count as copies" in said


def test_novel_draws_again_what_copies(
    corpus: Corpus,
    loaded: LoadedVQModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, written = generate_module.write_audio, []

    def first_a_copy(path: Path, blocks: Any, **facts: Any) -> int:
        written.append(path)
        samples = write(path, blocks, **facts)
        if len(written) == 1:
            excerpt(corpus, path, 3.0, 3.0)
        return samples

    monkeypatch.setattr(generate_module, "write_audio", first_a_copy)
    request = (loaded.path, "-n", 2, "-d", 3, "--seed", 1)
    code, document, said = generate(capsys, *request, "-o", tmp_path / "new", "--novel", "--json")
    assert code == 0
    assert document["draws"] == [2, 1]
    assert {sound["verdict"] for sound in document["check"]["sounds"]} == {"none found"}
    assert "drawn 2 times; the others copied a training recording" in said
    written.clear()
    _, document, _ = generate(capsys, *request, "-o", tmp_path / "kept", "--check", "--json")
    assert document["draws"] == [1, 1]
    assert document["check"]["sounds"][0]["verdict"] == "copies found"


def test_what_cannot_be_checked_is_said(
    corpus: Corpus,
    loaded: LoadedVQModel,
    make_corpus: MakeCorpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ("-o", tmp_path / "out", "-d", 1)
    assert loaded.prior is not None

    def said(*arguments: object, record: dict[str, Any] | None = None) -> tuple[int, str]:
        if record is not None:
            save_prior_to_model(loaded.path, loaded.prior, prior_metadata={"corpus": record})  # type: ignore[arg-type]
        code, _, text = generate(capsys, loaded.path, *out, *arguments)
        return code, text

    assert said("--corpus", corpus.uri) == (
        2,
        "error: --corpus is of use only with --check or --novel; add one or leave it out",
    )
    code, text = said("--check", record={"source": str(tmp_path / "gone"), "digest": corpus.digest})
    assert code == 2
    assert text.endswith(f"was trained on are not at {tmp_path / 'gone'}; name them with --corpus DATA")
    code, text = said("--check", record={})
    assert code == 2
    assert text.endswith("was trained on are not known; name them with --corpus DATA")
    code, text = said("--check", "--corpus", corpus.uri)
    assert code == 0
    assert "is not the corpus that the prior was trained on, as its record has it" in text


@pytest.mark.parametrize("flag", ["--check", "--novel"])
def test_a_stream_is_not_checked(
    loaded: LoadedVQModel, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    code, _, said = generate(capsys, loaded.path, "--stream", flag)
    assert (code, said) == (
        2,
        "error: --stream plays a sound before it could be checked; leave out --check and --novel",
    )
