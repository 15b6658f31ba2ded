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


def test_the_table_is_on_stderr_and_the_document_on_stdout(
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
    assert "SI-SDR dB" in captured.err
    assert f"{document['depths'][0]['mel_distance']:.4g}" in captured.err
    assert "say nothing about new audio" in " ".join(captured.err.split())

    assert run(app, ["evaluate", model, str(tmp_path / "source"), "--split", "all"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 files of all" in captured.err
    assert run(app, ["evaluate", model, str(tmp_path / "source"), "--split", "test"]) == 2
    assert "--split" in capsys.readouterr().err
