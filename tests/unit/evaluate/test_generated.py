"""`distill-ray evaluate --generated` through the real app, and what it does with odd folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import LoadedVQModel, save_prior_to_model
from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.config.prior import PriorConfig
from distill_ray.corpus import Corpus
from distill_ray.evaluate import corpus_reference as of_corpus
from distill_ray.evaluate.corpus_reference import corpus_pieces, corpus_reference
from distill_ray.prior import CodePrior

RATE = 8_000
# Issue 21.
MEASURES = {
    "windows",
    "ratio",
    "ratio_interval",
    "frechet",
    "kernel",
    "coverage",
    "density",
    "groups",
    "floors",
}
FIELDS = MEASURES | {
    *("silence_share", "clipped_share"),
    *("copies", "exact_continuations", "held_out_continuations"),
}
MakeCorpus = Callable[..., Corpus]
MakeLoaded = Callable[..., LoadedVQModel]


@pytest.fixture(scope="module")
def corpus(make_corpus_in: MakeCorpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Six files of 13 s; three are held out. Nothing writes into it."""
    return make_corpus_in(tmp_path_factory.mktemp("six"), (13.0,) * 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four sounds of 10 s at another rate, in sub-folders."""
    made = tmp_path / "other" / "deep"
    made.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(4):
        time = np.arange(10 * 12_000) / 12_000
        sound = 0.1 * np.sin(2 * np.pi * 300 * (index + 1) * time) + 0.01 * random.standard_normal(len(time))
        soundfile.write(made / f"{index}.wav", sound, 12_000)
    return tmp_path / "other"


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    """Exit code, the JSON document or None, stderr on one line."""
    code = run(app, ["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    document = json.loads(captured.out) if "--json" in arguments else captured.out
    return code, document, " ".join(captured.err.split())


def test_a_folder_of_another_tool_is_judged_without_a_prior(
    corpus: Corpus, folder: Path, make_loaded: MakeLoaded, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_loaded().path
    code, document, said = evaluate(capsys, model, corpus.uri, "--generated", folder, "--json")
    assert code == 0
    generated, decoded = document["generated"], document["decoded"]
    assert generated.keys() == decoded.keys()
    assert generated.keys() >= FIELDS
    assert generated["windows"] == 4 * 11
    assert generated["ratio"] == pytest.approx(generated["frechet"] / generated["floors"]["halves"])
    low, high = generated["ratio_interval"]
    assert low <= generated["ratio"] <= high
    assert set(generated["groups"]) >= {"spectrum", "modulation", "tonality", "texture", "embedding"}
    for score in generated["groups"].values():
        assert score["ratio"] == pytest.approx(score["frechet"] / score["halves"])
    assert decoded["windows"] == 3 * 14
    assert generated["ratio"] > 1
    assert "4 of 4 files have another sample rate and are judged at 8000 Hz" in said
    assert "with fewer than 100 the figures are uncertain" in said
    assert document["depths"][0]["levels"] == 1


def test_the_table_shows_floors_groups_and_levels(
    corpus: Corpus, folder: Path, make_loaded: MakeLoaded, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.wav").write_text("no audio")
    code, shown, said = evaluate(capsys, make_loaded().path, corpus.uri, "--generated", folder)
    assert code == 0
    assert "Generated sound against the training audio: 4 sounds, 40 s, 44 windows" in shown
    assert "Decoded sound against the training audio: 3 sounds" in shown
    for word in ("halves", "held out", "coverage", "texture", "longest silence, s", "training audio"):
        assert word in shown
    copies = " ".join(shown[shown.index("Copies of the training audio") :].split())
    assert re.search(
        r"verdict (none found|copies found) seconds that count as copies \d+\.\d% longest copied stretch "
        r"\d+\.\d s false-positive rate \d+\.\d% of \d+ windows",
        copies,
    )
    assert "Nearest training moments" in copies
    assert "deep/1.wav" in copies
    assert "1 of the files in" in said
    assert "broken.wav" in said
    assert "judge: 4 of 4 files" in said


def test_what_the_model_generates_is_judged_and_the_same_again(
    corpus: Corpus, make_loaded: MakeLoaded, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = make_loaded(corpus, n_fft=512, hop=128)  # fewer frames to draw
    torch.manual_seed(0)
    config = PriorConfig(
        codebook_size=16, num_quantizers=3, hidden_size=16, num_layers=1, num_heads=1, context_frames=16
    )
    save_prior_to_model(loaded.path, CodePrior(config), prior_metadata={})
    arguments = (loaded.path, corpus.uri, "--generated", "-n", 4, "-d", 3, "--seed", 5, "--json")
    code, document, said = evaluate(capsys, *arguments)
    assert code == 0
    assert document["generated"]["sounds"] == 4
    assert document["generated"]["windows"] == 12
    assert "generate:" in said
    _, again, said = evaluate(capsys, *arguments)
    assert again["generated"] == document["generated"]
    assert again["decoded"] == document["decoded"]
    assert "judge: 6 of 6" not in said, "the reference of the corpus was measured again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--generated",), "has no prior, so it generates nothing"),
        (("--generated", "EMPTY"), "holds no audio files; name a folder of wav, flac, ogg or mp3"),
        (("--generated", "nowhere"), "nowhere does not exist; name a folder of recordings"),
        (("EMPTY",), "is audio to judge only with --generated"),
        (("--generated", "OTHER", "-n", "3"), "-n is for generating and"),
        (("-n", "3", "--top-k", "5"), "-n and --top-k is of use only with --generated"),
        (("--generated", "OTHER", "--seed", "-1"), "-1 is below the least allowed value 0"),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_sentence(
    arguments: tuple[str, ...],
    message: str,
    corpus: Corpus,
    folder: Path,
    tmp_path: Path,
    make_loaded: MakeLoaded,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "OTHER": folder}
    given = [places.get(argument, argument) for argument in arguments]
    code, _, said = evaluate(capsys, make_loaded().path, corpus.uri, *given)
    assert code == 2
    assert message in said
    assert said.count("error:") == 1


def test_sounds_of_a_fifth_of_a_second_and_silence_are_judged_or_refused(
    corpus: Corpus, tmp_path: Path, make_loaded: MakeLoaded, capsys: pytest.CaptureFixture[str]
) -> None:
    model, short = make_loaded().path, tmp_path / "short"
    short.mkdir()
    for index in range(4):
        soundfile.write(short / f"{index}.wav", np.zeros(RATE // 5), RATE)
    code, _, said = evaluate(capsys, model, corpus.uri, "--generated", short)
    assert (code, said.count("error:")) == (2, 1)
    assert "4 sounds of 0.8 s together make 0 windows of 1.5 s" in said
    for index in range(4, 80):
        soundfile.write(short / f"{index}.wav", np.zeros(RATE // 5), RATE)
    code, document, said = evaluate(capsys, model, corpus.uri, "--generated", short, "--json")
    assert code == 0
    assert document["generated"]["silence_share"] == 1.0
    assert document["generated"]["peak_dbfs"] is None
    assert document["generated"]["longest_silence_s"] == pytest.approx(0.2)
    assert "all of it is silent" in said


def test_a_corpus_that_is_too_short_is_said(
    make_corpus: MakeCorpus, folder: Path, make_loaded: MakeLoaded, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus((5.0,), val_fraction=0.0)
    code, _, said = evaluate(capsys, make_loaded().path, corpus.uri, "--generated", folder)
    assert code == 2
    assert "the training audio is too short to be compared with: 5.0 s" in said


def test_training_files_are_decoded_where_there_is_too_little_held_out_sound(
    make_corpus: MakeCorpus, folder: Path, make_loaded: MakeLoaded, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus((4.0,) * 9, val_fraction=0.1)
    assert corpus.seconds("val") == 8.0
    code, document, said = evaluate(capsys, make_loaded().path, corpus.uri, "--generated", folder, "--json")
    assert code == 0
    assert document["decoded"]["sounds"] == 7
    assert said.count("decoded: training files, as there is too little held-out sound to judge") == 1


def test_a_long_corpus_is_measured_in_pieces_from_all_over(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_corpus, "PIECE_SECONDS", 2.0)
    assert len(corpus_pieces(corpus, "train")) == 21
    monkeypatch.setattr(of_corpus, "MOST_SECONDS", 13.0)
    pieces = corpus_pieces(corpus, "train")
    assert len(pieces) == 7
    assert len({piece.file.sha256 for piece in pieces}) == 3


def test_the_reference_of_a_corpus_is_kept_by_its_content(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = corpus_reference(corpus, cache_dir=tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    monkeypatch.setattr(of_corpus.Reference, "fit", None)
    again = corpus_reference(corpus, cache_dir=tmp_path / "kept")
    assert again.training.seconds == first.training.seconds == pytest.approx(39)
    for name, values_ND in first.training.windows["short"].features.items():
        np.testing.assert_array_equal(values_ND, again.training.windows["short"].features[name])
    path.write_bytes(b"cut off")
    with pytest.raises(TypeError):  # measured again
        corpus_reference(corpus, cache_dir=tmp_path / "kept")
