"""`distill-ray report` through the real app in this process, and where the trainings write theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill_ray.cli.main import app
from distill_ray.cli.output import run
from distill_ray.training import samples

TINY = """
[corpus]
sample_rate = 8000
[model]
codebook_size = 16
num_quantizers = 2
width = 16
encoder_blocks = 1
decoder_blocks = 1
latent_dim = 16
n_fft = 256
hop = 64
[training]
batch_size = 8
window_seconds = 0.25
epochs = 1
min_epoch_steps = 2
warmup_steps = 2
val_seconds = 1.0
[prior]
hidden_size = 16
num_layers = 1
num_heads = 2
context_frames = 16
[prior_training]
epochs = 1
batch_size = 2
min_epoch_steps = 2
warmup_steps = 2
"""


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Recordings, and arguments that train on them in a moment."""
    (tmp_path / "<b>birds").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, 4_000)
        soundfile.write(tmp_path / "<b>birds" / f"<script>{number}.wav", noise, 8_000)
    (tmp_path / "tiny.toml").write_text(TINY)
    return ["--num-workers", "0", "--config", str(tmp_path / "tiny.toml"), "--json"]


def test_train_and_train_prior_leave_a_report_that_can_be_made_again(
    tmp_path: Path,
    settings: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "MOST_SHARE", 0.0)  # or it would depend on the clock what is kept
    data, out = str(tmp_path / "<b>birds"), tmp_path / "run"
    assert run(app, ["train", data, "--name", "birds", "-o", str(out), *settings]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report_path"] == str(out / "report.html")
    first = (out / "report.html").read_text("utf-8")
    assert "<b>birds" not in first
    assert "&lt;b&gt;birds/&lt;script&gt;" in first
    assert first.count("<audio ") == 2  # a recording of half a second and what the codec makes of it

    model = document["model_path"]
    assert run(app, ["train-prior", model, data, *settings]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report_path"] == str(out / "birds.prior" / "report.html")
    assert Path(document["report_path"]).read_text("utf-8").count("<audio ") == 4  # two sounds of the prior

    page = tmp_path / "page.html"
    assert run(app, ["report", str(out), "-o", str(page), "--sounds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report"] == str(page)
    assert document["bytes"] == page.stat().st_size
    assert document["sounds"] == page.read_text("utf-8").count("<audio ") == 3


def test_no_report_where_none_is_wanted(
    tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = str(tmp_path / "<b>birds"), tmp_path / "run"
    assert run(app, ["train", data, "--name", "birds", "-o", str(out), "--no-report", *settings]) == 0
    assert json.loads(capsys.readouterr().out)["report_path"] is None
    assert not (out / "report.html").exists()
    assert (out / "samples" / "original-0.flac").exists()


def test_nothing_of_ours_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["report", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path} holds no run, no search and no model; give the folder")


@pytest.mark.parametrize("arguments", [["--sounds", "25"], ["--sounds", "-1"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_refused(arguments, capsys):
    assert run(app, ["report", "nowhere", *arguments]) == 2
    assert f"error: {arguments[0]}: {arguments[1]} is not between 0 and " in capsys.readouterr().err
