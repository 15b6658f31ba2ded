"""`distill-ray evaluate` through the real app in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.bundle import LoadedVQModel
from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.corpus import Corpus


def test_stdout_is_the_tables_or_the_document(
    tmp_path: Path,
    make_corpus: Callable[..., Corpus],
    make_loaded: Callable[..., LoadedVQModel],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_corpus((0.5, 0.4), val_fraction=0.0)
    model = str(make_loaded().path)
    assert run(app, ["evaluate", model, str(tmp_path / "corpus"), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["split"], document["requested_split"], document["files"]) == ("train", "val", 2)
    codes = document["codes"]
    assert codes.pop("below_histogram") is None  # there is no prior
    assert set(codes) == {"shift_eighth", "shift_quarter", "shift_half", "polarity", "gain_3db"}
    assert {len(shares) for shares in codes.values()} == {len(document["codebook_health"])}
    assert "say nothing about new audio" in " ".join(captured.err.split())

    (tmp_path / "source" / "broken.wav").write_text("no audio")
    assert run(app, ["evaluate", model, str(tmp_path / "source"), "--split", "all"]) == 0
    captured = capsys.readouterr()
    assert "left out broken.wav it cannot be decoded" in " ".join(captured.err.split())
    assert captured.out.startswith("2 files, 0.9 s at 8000 Hz")
    assert "SI-SDR dB" in captured.out
    assert f"{document['depths'][0]['mel_distance']:.4g}" in captured.out
    assert "\x1b" not in captured.out
    assert "Codebook use in these files" in captured.out
    assert "this is not the corpus that the model was trained on" in " ".join(captured.err.split())
    assert run(app, ["evaluate", model, str(tmp_path / "source"), "--split", "test"]) == 2
    assert "--split" in capsys.readouterr().err


def test_a_corpus_of_another_format_is_refused_with_what_to_do(
    tmp_path: Path,
    make_corpus: Callable[..., Corpus],
    make_loaded: Callable[..., LoadedVQModel],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_corpus((0.5,), val_fraction=0.0)
    model = str(make_loaded(sample_rate=16_000, channels=2).path)
    assert run(app, ["evaluate", model, str(tmp_path / "corpus"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["message"] == (
        f"the corpus at {tmp_path}/corpus is 8000 Hz mono, but the model is for 16000 Hz stereo; "
        "prepare it again with --sample-rate 16000 --channels 2"
    )
