from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from distill_ray.cli.main import app
from distill_ray.cli.output import run


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "in[1]"
    source.mkdir()
    random = np.random.default_rng(3)
    for index in range(3):
        audio = random.uniform(-0.5, 0.5, 8000 * (index + 1)).astype("float32")
        soundfile.write(source / f"{index}.wav", audio, 16_000)
    (source / "copy.wav").write_bytes((source / "0.wav").read_bytes())
    (source / "bad[x].wav").write_bytes(b"RIFF no audio")
    return source


def test_a_folder_is_prepared_and_summed_up(folder, tmp_path, capsys):
    out = tmp_path / "corpus"
    line = ["prepare", str(folder), "--out", str(out), "--sample-rate", "16000", "--workers", "1"]
    assert run(app, [*line, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["files"], document["decoded"], document["reused"]) == (3, 3, 0)
    assert document["seconds_train"] + document["seconds_val"] == pytest.approx(3.0)
    text = " ".join(captured.err.split())
    assert "files kept 3 (3 decoded, 0 reused)" in text
    assert "duplicates 1" in text
    assert "Rejected (1)" in text
    assert "bad[x].wav" in text

    assert run(app, line) == 0
    captured = capsys.readouterr()
    assert "3 (0 decoded, 3 reused)" in captured.err
    assert captured.out.strip() == document["out"]


def test_strict_makes_a_bad_file_an_error(folder, tmp_path, capsys):
    assert run(app, ["prepare", str(folder), "--strict", "--out", str(tmp_path / "corpus")]) == 2
    captured = capsys.readouterr()
    assert "bad[x].wav" in captured.err
    assert captured.out == ""


def test_every_wrong_setting_is_named_at_once(folder, tmp_path, capsys):
    line = ["prepare", str(folder), "-o", str(tmp_path / "c"), "--channels", "5", "--val-fraction", "2"]
    assert run(app, [*line, "--workers", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[1] for line in lines] == ["--channels", "--val-fraction", "--workers"]


def test_no_workers_is_refused(folder, tmp_path, capsys):
    assert run(app, ["prepare", str(folder), "-o", str(tmp_path / "c"), "--workers", "0"]) == 2
    assert "--workers (workers): 0 is below" in capsys.readouterr().err
