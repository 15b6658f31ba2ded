"""`distill-ray run` from recordings to samples: killed at every stage, and with a search on Ray Tune."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from distill_ray.bundle import verify
from distill_ray.cli.main import app
from distill_ray.cli.output import run

RATE = 8_000
ONE_CODEC = "[model]\ncodebook_size = 16\nnum_quantizers = 2\n"
# The command, which kills itself at the first event whose record has all that the first argument names.
KILLED = """
import json, os, signal, sys
from distill_ray.cli import attended
from distill_ray.cli.main import main
from distill_ray.events.records import to_record

wanted = json.loads(sys.argv.pop(1))
tell = attended.Attended.__call__

def listen(self, event):
    tell(self, event)
    record = to_record(event)
    if all(record.get(key) == value for key, value in wanted.items()):
        os.kill(os.getpid(), signal.SIGKILL)

attended.Attended.__call__ = listen
main()
"""
STAGES = ["prepare", "codec", "prior", "samples"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_settings: str, plucks: Any) -> Path:
    """Six recordings and two settings files."""
    root = tmp_path_factory.mktemp("run")
    (root / "in").mkdir()
    for number in range(6):
        tone_T, rng = plucks(number, 1.5)
        noise_T = 0.02 * rng.standard_normal(len(tone_T))
        soundfile.write(root / "in" / f"{number}.wav", 0.3 * tone_T + noise_T, RATE)
    settings = re.sub(r"(training\])", r"\1\nbatch_size = 16", small_settings)
    (root / "search.toml").write_text(settings)
    # To be killed: a checkpoint after every step.
    settings = re.sub(r"(training\])", r"\1\ncheckpoint_seconds = 0.0", settings)
    (root / "one.toml").write_text(settings.replace("[model]\n", ONE_CODEC))
    return root


def environment(folder: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(folder / "cache"), "DISTILL_RAY_TRACEBACK": "1"}


def start(folder: Path, *arguments: object, program: tuple[str, ...] = ("-m", "distill_ray")) -> Any:
    """The command's process, ended."""
    return subprocess.run(
        [sys.executable, *program, "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment(folder)},
        cwd=folder,
        timeout=600,
        check=False,
    )


def document(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def one_codec(name: str) -> tuple[object, ...]:
    return (
        "in", "--out", name, "--name", "m", "--no-tune", "--config", "one.toml", "--epochs", 3,
        "--prior-epochs", 3, "--samples", 2, "--seconds", 0.5, "--num-workers", 0, "--json",
    )  # fmt: skip


def sums(folder: Path) -> dict[str, str]:
    """sha256 of the model and of the samples."""
    files = [folder / "m.distill", *sorted((folder / "samples").iterdir())]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.timeout(900)  # five trainings, which a busy machine takes its time for
def test_killed_at_every_stage_it_ends_with_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends() -> dict[str, Any]:
        """The command in this process, which saves it the start."""
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert run(app, ["run", *map(str, one_codec("out"))]) == 0
        loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
        return loaded

    whole = ends()
    assert [stage["state"] for stage in whole["stages"]] == ["done"] * 4
    expected = sums(folder / "out")
    (folder / "out").rename(folder / "whole")  # the corpus' path is part of what a model says of itself

    # What it is killed at, and the stages that this call had still to run.
    kills = [
        ({"event": "VQEpochMetrics", "epoch": 2}, STAGES),
        ({"event": "PriorEpochMetrics", "epoch": 2}, STAGES[1:]),
        ({"event": "StageProgress", "stage": "generate", "done": 20}, STAGES[2:]),
    ]
    for at, left in kills:
        killed = start(folder, *one_codec("out"), program=("-c", KILLED, json.dumps(at)))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        plan = [line.split() for line in killed.stderr.splitlines() if line.startswith("  ") and line.strip()]
        stages = {words[0]: words[1] for words in plan if words[0] in STAGES}
        assert [stage for stage in STAGES if stages[stage] == "will"] == left, killed.stderr
    ended = ends()
    assert [stage["state"] for stage in ended["stages"]] == ["skipped"] * 3 + ["done"]
    assert sums(folder / "out") == expected
    for part in ("codec", "prior"):
        for key in whole[part].keys() - {"elapsed_s", "audio_seconds_per_second"}:
            assert ended[part][key] == whole[part][key], key


@pytest.mark.timeout(900)
def test_a_search_and_all_that_follows(folder: Path, in_process: Any) -> None:
    arguments = (
        "in", "--out", "all", "--config", "search.toml", "--codebook-sizes", 16, "--rvq-levels", "2,4",
        "--finalists", 1, "--epochs", 2, "--gpus-per-trial", 0, "--max-concurrent", 1, "--prior-epochs", 2,
        "--no-health-stop", "--samples", 1, "--seconds", 0.25, "--num-workers", 0, "--json",
    )  # fmt: skip
    done = start(folder, *arguments)
    made, said = document(done), done.stderr
    out = folder / "all"
    assert made["model_path"] == str(out / "in.distill")
    best = made["tune"]["best"]
    assert (best["codebook_size"], best["rvq_levels"] in (2, 4)) == (16, True)
    manifest = verify(out / "in.distill")
    assert manifest.has_prior
    assert manifest.vqvae_config.num_quantizers == best["rvq_levels"]
    assert verify(out / "search" / "in.distill").codec_sha256 == manifest.codec_sha256
    assert soundfile.info(made["samples"][0]).frames == RATE // 4
    trials = [trial["id"] for trial in made["tune"]["trials"]]
    assert f"trial {trials[0]}: running" in said
    told = [json.loads(line)["event"] for line in (out / "search" / "events.jsonl").read_text().splitlines()]
    assert (told[0], told[-1], "TrialUpdate" in told) == ("SweepStarted", "SweepCompleteEvent", True)
    assert "RunStarted" not in told
    own = (out / "search" / "trials" / trials[0] / "events.jsonl").read_text()
    assert '"event": "VQEpochMetrics"' in own

    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    again = document(in_process("run", "--resume", "all", "--json", cwd=folder, environment=cache))
    assert [stage["state"] for stage in again["stages"]] == ["skipped"] * 4
    said_once = {"stages": None, "warnings": None}  # warnings are of what a command did
    assert {**again, **said_once} == {**made, **said_once}
