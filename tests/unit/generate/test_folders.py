"""`encode` and `decode` of folders, through the real app in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from distill_ray.bundle import LoadedVQModel
from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.corpus.scan import find_audio
from distill_ray.errors import BundleError, UsageError
from distill_ray.generate import decode_folder, encode_folder
from tests.unit.generate.conftest import RATE, recording


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.wav", "deep/b.wav", "deep/b.flac")):
        soundfile.write(folder / name, recording(number, 0.3 + 0.1 * number, 1, RATE), RATE)
    (folder / "broken.wav").write_bytes(b"RIFFnothing")
    (folder / "notes.txt").write_text("no recording")
    return folder


def test_names_and_lengths_come_back(
    tmp_path: Path,
    make_loaded: Callable[..., LoadedVQModel],
    recordings: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, codes, out = make_loaded(prior=False).path, tmp_path / "codes", tmp_path / "out"
    assert run(app, ["encode", str(model), str(recordings), "-o", str(codes)]) == 0
    seen = capsys.readouterr()
    made = ["a.codes", "deep/b.flac.codes", "deep/b.wav.codes"]
    assert seen.out.split() == [str(codes / name) for name in made]
    assert "encode: 4 of 4 files" in " ".join(seen.err.split())
    left_out = "".join(seen.err.split())  # wherever lines were broken
    assert f"{recordings}/broken.wavisleftout:" in left_out
    assert left_out.count("broken.wav") == 1
    assert run(app, ["decode", str(model), str(codes), "-o", str(out), "--format", "flac", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [file["samples"] for file in document["files"]] == [2_400, 4_000, 3_200]
    assert document["rejected"] == []
    assert soundfile.info(out / "deep" / "b.flac.flac").frames == 4_000
    left_out = [each.path for each in find_audio([tmp_path]).unreadable]
    assert left_out == [str(out)]  # what was decoded is no recording


def test_what_is_there_stays(
    tmp_path: Path, make_loaded: Callable[..., LoadedVQModel], recordings: Path
) -> None:
    loaded = make_loaded(prior=False)
    (tmp_path / "codes" / "deep").mkdir(parents=True)
    there = tmp_path / "codes" / "deep" / "b.wav.codes"
    there.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists; give --overwrite to replace it, or choose another --out"):
        encode_folder(loaded, recordings, tmp_path / "codes")
    assert [path for path in (tmp_path / "codes").rglob("*") if path.is_file()] == [there]


def test_a_folder_without_codes_is_said(
    tmp_path: Path,
    make_loaded: Callable[..., LoadedVQModel],
    recordings: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = make_loaded(prior=False)
    with pytest.raises(BundleError, match="no codes file"):
        decode_folder(loaded, recordings, tmp_path / "out")
    with pytest.raises(UsageError, match="is not one of wav, flac, ogg, mp3"):
        decode_folder(loaded, recordings, tmp_path / "out", audio_format="xyz")
    codes = tmp_path / "a.codes"
    assert run(app, ["encode", str(loaded.path), str(recordings / "a.wav"), "-o", str(codes)]) == 0
    line = ["decode", str(loaded.path), str(codes), "-o", str(tmp_path / "a.wav"), "--format", "wav"]
    assert run(app, line) == 2
    assert "--format is of the files of a folder" in capsys.readouterr().err
