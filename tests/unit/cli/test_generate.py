"""`distill-ray generate --stream` through real pipes; its files are tested in tests/unit/generate."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import save_model_v2
from distill_ray.cli.main import app
from distill_ray.cli.output import READER_GONE, run
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.prior import CodePrior
from distill_ray.vqvae import VQVAE

LINE = [sys.executable, "-W", "error", "-m", "distill_ray", "generate"]


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """A tiny model with a prior, untrained."""

    def make(channels: int = 1) -> Path:
        torch.manual_seed(0)
        config = VQVAEConfig(
            sample_rate=8_000,
            channels=channels,
            width=16,
            encoder_blocks=1,
            decoder_blocks=1,
            latent_dim=16,
            num_quantizers=3,
            codebook_size=16,
            n_fft=128,
            hop=32,
        )
        codec = VQVAE(config)
        with torch.no_grad():  # an untrained decoder whispers
            codec.decoder.head.weight.mul_(30)
        prior = CodePrior(
            PriorConfig(
                codebook_size=16,
                num_quantizers=3,
                hidden_size=16,
                num_layers=1,
                num_heads=2,
                context_frames=16,
            )
        )
        path = tmp_path / f"model{channels}.distill"
        return save_model_v2(path, codec, metadata={}, codebook_health=(), prior=prior)

    return make


def test_a_stream_is_the_file_that_generate_writes(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    channels = 2
    model, settings = make_model(channels), ["-d", "1.3", "--seed", "2", "--top-k", "9"]
    streamed = subprocess.Popen([*LINE, model, *settings, "--stream"], stdout=subprocess.PIPE)
    assert streamed.stdout is not None
    with soundfile.SoundFile(streamed.stdout.fileno(), closefd=False) as sound:
        assert (sound.samplerate, sound.channels, sound.subtype) == (8_000, channels, "PCM_16")
        pcm = sound.read(20_000, dtype="int16", always_2d=True)
    streamed.stdout.close()
    assert streamed.wait(60) == 0
    assert pcm.shape == (10_400, channels)
    assert run(app, ["generate", str(model), *settings, "-o", str(tmp_path)]) == 0
    expected, _ = soundfile.read(tmp_path / "sample_s2_000.wav", dtype="int16", always_2d=True)
    # What differs by 1e-5 may be rounded to neighbours.
    assert np.abs(pcm.astype(int) - expected).max() <= 1
    assert np.abs(expected).max() > 100


def test_a_player_that_is_closed_ends_the_work_without_a_word(
    make_model: Callable[..., Path], start_forked: Callable[..., subprocess.Popen[bytes]]
) -> None:
    streamed = start_forked(
        "generate", make_model(), "-d", 36_000, "--stream", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert streamed.stdout is not None
    assert streamed.stderr is not None
    assert streamed.stdout.read(5_000)[:4] == b"RIFF"  # hours before the sound is over
    streamed.stdout.close()
    assert streamed.wait(60) == READER_GONE == 141
    said = streamed.stderr.read().decode()
    streamed.stderr.close()
    assert all(line.startswith("generate: ") for line in said.splitlines()), said


def test_a_player_that_was_never_there(
    make_model: Callable[..., Path], start_forked: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    streamed = start_forked("generate", make_model(), "--stream", stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    _, said = streamed.communicate(timeout=60)
    assert (streamed.returncode, said) == (READER_GONE, b"")


def test_ctrl_c_while_the_player_is_behind(
    make_model: Callable[..., Path], start_forked: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    streamed = start_forked(
        "generate", make_model(), "-d", 36_000, "--stream", stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    try:
        assert os.read(ours, 4)
        time.sleep(0.5)  # by now it waits for somebody to read
        streamed.send_signal(signal.SIGINT)
        _, said = streamed.communicate(timeout=60)
    finally:
        streamed.kill()
        os.close(ours)
    assert streamed.returncode == 3
    assert said.decode().splitlines()[-1] == "error: cancelled by Ctrl-C"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-n", "2"], "--stream makes one sound and -n asks for 2; leave one out"),
        (["-o", "x"], "--stream writes to stdout and -o names a folder; leave one out"),
        (["--format", "flac"], "--stream writes wav and --format asks for flac; leave one out"),
        (["--json"], "--stream puts the sound on stdout, where --json puts its document; leave one out"),
    ],
)
def test_what_does_not_go_with_a_stream(
    capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    # The model is not looked for: what is asked for makes no sense with any.
    assert run(app, ["generate", "missing.distill", "--stream", *options]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {sentence}\n"
    assert captured.out == "" or options == ["--json"]


def test_sound_is_not_poured_into_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_ray.cli.generate.shown_to_a_person", lambda: True)
    assert run(app, ["generate", "missing.distill", "--stream"]) == 2
    assert "which is a terminal; add `| aplay` or `> FILE`" in capsys.readouterr().err


def test_errors_leave_stdout_empty(capsysbinary: Any, make_model: Callable[..., Path]) -> None:
    assert run(app, ["generate", str(make_model()), "--stream", "-d", "-1", "--seed", "-2"]) == 2
    captured = capsysbinary.readouterr()
    assert captured.out == b""
    assert b"-d (generate.seconds)" in captured.err
    assert b"--seed (generate.seed)" in captured.err


def test_without_a_seed_each_call_makes_other_sounds(make_model, tmp_path, capfd):
    model = str(make_model())
    documents = []
    for _ in range(2):
        assert run(app, ["generate", model, "-d", "0.2", "-o", str(tmp_path / "out"), "--json"]) == 0
        documents.append(json.loads(capfd.readouterr().out))
    assert documents[0]["seed"] != documents[1]["seed"]
    names = sorted(path.name for path in (tmp_path / "out").glob("*.wav"))
    assert names == sorted(f"sample_s{document['seed']}_000.wav" for document in documents)


def test_a_file_and_another_format_contradict(make_model, tmp_path, capfd):
    line = ["generate", str(make_model()), "-d", "0.2", "-o", str(tmp_path / "x.wav")]
    assert run(app, [*line, "--format", "flac"]) == 2
    assert "--format asks for flac" in capfd.readouterr().err
    assert run(app, line) == 0
    assert (tmp_path / "x.wav").is_file()
