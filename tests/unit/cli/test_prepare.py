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
    assert "left out 1, and 1 duplicate" in text
    assert "Recordings (3 used)" in text
    assert "left out bad[x].wav it cannot be decoded: it is no audio file, or a damaged one" in text
    assert "copy copy.wav a copy of 0.wav" in text

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
    assert [line.split(" ")[1] for line in lines] == ["--channels", "--val-fraction", "--workers:"]


def test_no_workers_is_refused(folder, tmp_path, capsys):
    assert run(app, ["prepare", str(folder), "-o", str(tmp_path / "c"), "--workers", "0"]) == 2
    assert "--workers: 0 is below" in capsys.readouterr().err


def sines(folder, count, seconds=0.25):
    folder.mkdir()
    for index in range(count):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 37 * index) * np.arange(int(seconds * 16_000)) / 16_000)
        soundfile.write(folder / f"{index}.wav", tone, 16_000)
    return folder


def test_what_goes_from_the_corpus_is_said(folder, tmp_path, capsys):
    other = sines(tmp_path / "other", 2)
    line = ["--out", str(tmp_path / "corpus"), "--sample-rate", "16000", "--json"]
    assert run(app, ["prepare", str(other), *line]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["removed"] == 0
    assert "removed" not in captured.err

    assert run(app, ["prepare", str(folder), *line]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["removed"] == 2
    text = " ".join(captured.err.split())
    assert "removed 2 files no longer in the sources; name all to keep them" in text

    (folder / "2.wav").unlink()
    assert run(app, ["prepare", str(folder), *line]) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "removed 1 file no longer in the sources; name all to keep them" in text


def test_a_fraction_that_kept_files_do_not_follow_is_said(tmp_path, capsys):
    line = [
        "prepare",
        str(sines(tmp_path / "in", 12)),
        "--out",
        str(tmp_path / "c"),
        "--sample-rate",
        "16000",
    ]
    warning = (
        "files keep the side that they had: {} of 3.0 s are held out ({} files); for another split prepare "
        "into a new --out"
    )
    assert run(app, [*line, "--val-fraction", "0.5", "--json"]) == 0
    captured = capsys.readouterr()
    held_out = json.loads(captured.out)["files_val"]
    assert held_out > 2
    assert "keep the side" not in captured.err
    assert run(app, [*line, "--val-fraction", "0.1"]) == 0
    assert warning.format(held_out / 4, held_out) in " ".join(capsys.readouterr().err.split())
    # The default asks for nothing, and the same fraction again gets what it asked for.
    for more in ([], ["--val-fraction", "0.5"]):
        assert run(app, [*line, *more]) == 0
        assert "keep the side" not in capsys.readouterr().err


def test_what_is_held_out_of_a_single_recording_is_said(tmp_path, capsys):
    folder = sines(tmp_path / "in", 1, seconds=30.0)
    line = ["prepare", str(folder), "--out", str(tmp_path / "c"), "--sample-rate", "16000"]
    assert run(app, line) == 0
    assert "held out the end of 1 file, 3.0 s" in " ".join(capsys.readouterr().err.split())
    kept = "files keep the side that they had: 3.0 of {} s are held out (the end of 1 file)"
    assert run(app, [*line, "--val-fraction", "0.5"]) == 0
    assert kept.format("30.0") in " ".join(capsys.readouterr().err.split())
    sines(folder / "more", 1)
    assert run(app, line) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "training 1 file, 27.0 s held out 1 file and the end of 1 file" in text or (
        "training 2 files, 27.2 s held out the end of 1 file, 3.0 s" in text
    )


def test_help_says_what_mono_and_stereo_are_made_of(capsys):
    assert run(app, ["prepare", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (
        "1: the mean of all that a file has; 2: its first two, or its only one twice. [1 to 2; default: 1]"
        in text
    )
    assert "files of sources that are not named again are removed from it" in text
