"""The main job through the command line, as a user runs it: processes, exit codes, files, JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

RATE = 8_000
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_settings: str, plucks: Any) -> Path:
    """Stereo recordings, one broken file among them, and a settings file."""
    root = tmp_path_factory.mktemp("job")
    (root / "in").mkdir()
    for number in range(6):
        tone_T, rng = plucks(number, 1.5)
        noise = 0.02 * rng.standard_normal((len(tone_T), 2))
        soundfile.write(root / "in" / f"{number}.wav", 0.3 * tone_T[:, None] + noise, RATE)
    (root / "in" / "broken.flac").write_bytes(b"fLaC but not really")
    (root / "settings.toml").write_text(small_settings)
    return root


def environment(folder: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(folder / "cache"), "DISTILL_RAY_TRACEBACK": "1"}


@pytest.fixture(scope="module")
def run(folder: Path, in_process: Command) -> Command:
    """Most commands need no process of their own; `program` and `cancelled` make one."""

    def command(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = in_process(*arguments, cwd=folder, environment=environment(folder))
        assert done.returncode == code, done.stderr
        return done

    return command


@pytest.fixture(scope="module")
def cancelled(
    folder: Path, start_forked: Callable[..., subprocess.Popen[str]]
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """The exit code and the document of a command that gets Ctrl-C once its `log` says one of `once`."""

    def command(*arguments: object, log: Path, once: tuple[str, ...]) -> tuple[int, dict[str, Any]]:
        with log.open("w") as errors:
            process = start_forked(
                *arguments,
                environment=environment(folder),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            deadline = time.monotonic() + 120
            while not any(words in log.read_text() for words in once):
                assert time.monotonic() < deadline
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=120)
        return process.returncode, json.loads(stdout)

    return command


def program(folder: Path, *arguments: object, **streams: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "distill_ray", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment(folder)},
        cwd=folder,
        **streams,
    )


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Exactly one JSON document on stdout."""
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def training(folder: Path, name: str, *more: object) -> tuple[object, ...]:
    """`train` on the prepared corpus with small settings, JSON wanted."""
    return (
        "train",
        folder / "corpus",
        "--config",
        folder / "settings.toml",
        "--codebook-size",
        16,
        "--rvq-levels",
        2,
        "--batch-size",
        16,
        "--out",
        folder / name,
        "--name",
        "m",
        "--json",
        *more,
    )


@pytest.fixture(scope="module")
def corpus(folder: Path, run: Command) -> dict[str, Any]:
    return document(
        run(
            "prepare",
            "--json",
            folder / "in",
            "--out",
            folder / "corpus",
            "--sample-rate",
            RATE,
            "--channels",
            2,
            "--val-fraction",
            0.3,
        )
    )


@pytest.fixture(scope="module")
def trained(folder: Path, corpus: dict[str, Any]) -> dict[str, Any]:
    """By a process, whose stdout is the document and nothing else."""
    arguments = training(folder, "run", "--epochs", 3, "--num-workers", 0)
    with program(folder, *arguments, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    loaded: dict[str, Any] = json.loads(stdout)
    return loaded


@pytest.fixture(scope="module")
def with_prior(folder: Path, run: Command, trained: dict[str, Any]) -> dict[str, Any]:
    return document(
        run(
            "train-prior",
            trained["model_path"],
            folder / "corpus",
            "--config",
            folder / "settings.toml",
            "--epochs",
            3,
            "--batch-size",
            4,
            "--num-workers",
            0,
            "--no-report",
            "--json",
        )
    )


def test_prepare_lists_what_it_left_out(corpus: dict[str, Any]) -> None:
    assert (corpus["files"], corpus["sample_rate"], corpus["channels"]) == (6, RATE, 2)
    assert corpus["files_val"] >= 1
    assert [Path(item["path"]).name for item in corpus["rejected"]] == ["broken.flac"]


def test_train_reports_all_that_was_promised(trained: dict[str, Any], folder: Path) -> None:
    assert set(trained) == {
        "output_dir",
        "model_path",
        "model_name",
        "epochs_completed",
        "final_train_loss",
        "final_val_loss",
        "best_val_loss",
        "best_epoch",
        "codebook_size",
        "codebook_size_source",
        "rvq_levels",
        "commitment_weight",
        "codebook_health",
        "codes",
        "report_path",
        "warnings",
        "audio_seconds_per_second",
        "elapsed_s",
        "exit_reason",
        "collapse",
    }
    assert (trained["epochs_completed"], trained["exit_reason"], trained["model_name"]) == (
        3,
        "completed",
        "m",
    )
    assert (trained["codebook_size"], trained["codebook_size_source"], trained["rvq_levels"]) == (
        16,
        "override",
        2,
    )
    assert set(trained["codebook_health"]) == {"level_0", "level_1"}
    assert set(trained["codebook_health"]["level_0"]) == {
        "utilization",
        "perplexity",
        "dead_codes",
        "entropy",
        "kept",
        "gain",
    }
    assert Path(trained["model_path"]) == folder / "run" / "m.distill"
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events if event["event"] == "VQEpochMetrics"] == [1, 2, 3]


def test_a_cancelled_run_resumes_to_the_same_losses(
    folder: Path,
    run: Command,
    cancelled: Callable[..., tuple[int, dict[str, Any]]],
    trained: dict[str, Any],
) -> None:
    log = folder / "cut.log"
    code, cut = cancelled(
        *training(folder, "cut", "--epochs", 3, "--num-workers", 0, "--no-report"),
        log=log,
        once=("step", "epoch 1"),
    )
    if cut["exit_reason"] == "cancelled":  # else the signal came after the last step
        assert code == 3
        assert run("info", cut["model_path"], "--verify").returncode == 0
    resumed = document(
        run(
            "train",
            folder / "corpus",
            "--resume",
            folder / "cut",
            "--json",
            "--num-workers",
            0,
            "--no-report",
        )
    )
    for key in ("final_train_loss", "final_val_loss", "best_val_loss", "best_epoch", "codebook_health"):
        assert resumed[key] == trained[key]


@pytest.mark.usefixtures("corpus")
def test_a_collapsing_run_ends_with_code_4_and_its_model(
    folder: Path, run: Command, small_settings: str
) -> None:
    """Many codes for little audio, no re-seeding, no Muon, and a rate and a commitment at which codes die."""
    (folder / "collapse.toml").write_text(
        small_settings.replace("[model]", "[model]\nreseed_threshold = 0.0\nquantizer_dropout = 0.0").replace(
            "[training]", "[training]\nmuon_rate = 0.0"
        )
    )
    done = run(
        "train", folder / "corpus", "--config", folder / "collapse.toml", "--out", folder / "collapse",
        "--codebook-size", 64, "--rvq-levels", 2, "--batch-size", 8, "--lr", 0.1, "--epochs", 4,
        "--commitment-weight", 100, "--health-stop", "--health-floor", 0.5, "--health-patience", 2,
        "--health-warmup", 1, "--purpose", "compression", "--num-workers", 0, "--json", "--no-report",
        code=4,
    )  # fmt: skip
    ended = document(done)
    assert (ended["exit_reason"], ended["epochs_completed"]) == ("health", 3)
    assert re.fullmatch(r"collapsed level \d: utilization 0\.\d+ < 0\.50 for 2 reports", ended["collapse"])
    assert ended["collapse"] in done.stderr
    assert run("info", ended["model_path"], "--verify").returncode == 0


@pytest.mark.slow
def test_one_ray_worker_trains_as_no_worker(folder: Path, run: Command, trained: dict[str, Any]) -> None:
    one = document(run(*training(folder, "ray", "--epochs", 3, "--num-workers", 1, "--no-report")))
    for key in ("final_train_loss", "final_val_loss", "best_val_loss", "best_epoch", "codebook_health"):
        assert one[key] == trained[key]


def test_a_folder_that_holds_a_run_is_not_overwritten(
    folder: Path, run: Command, trained: dict[str, Any]
) -> None:
    before = Path(trained["model_path"]).read_bytes()
    done = run(*training(folder, "run", "--epochs", 1), code=2)
    assert "already holds a run" in document(done)["error"]["message"]
    assert Path(trained["model_path"]).read_bytes() == before


def test_all_wrong_settings_at_once(folder: Path, run: Command, corpus: dict[str, Any]) -> None:
    done = run(
        "train",
        "in",
        "--codebook-size",
        3,
        "--lr",
        -1,
        "--size",
        "vast",
        "--rvq-levels",
        99,
        "--json",
        code=2,
    )
    flags = {problem["flag"] for problem in document(done)["error"]["problems"]}
    assert flags == {"--codebook-size", "--lr", "--size", "--rvq-levels"}
    assert done.stderr.count("error:") == 4


def test_prior_reports_all_that_was_promised(with_prior: dict[str, Any], trained: dict[str, Any]) -> None:
    assert {
        "model_path",
        "dataset",
        "epochs_trained",
        "final_perplexity",
        "best_perplexity",
        "bits_per_second",
        "hidden_size",
        "num_layers",
        "num_heads",
        "learning_rate",
        "memorization_warnings",
    } <= set(with_prior)
    assert with_prior["model_path"] == trained["model_path"]
    assert (with_prior["epochs_trained"], with_prior["hidden_size"]) == (3, 32)
    assert 1.0 < with_prior["best_perplexity"] < 16.0


def test_generate_encode_decode_evaluate(
    folder: Path, run: Command, with_prior: dict[str, Any], tmp_path: Path
) -> None:
    model = with_prior["model_path"]
    made = document(
        run("generate", model, "-n", 2, "-d", 1.2345, "--seed", 5, "-o", tmp_path / "a", "--json")
    )
    again = document(
        run("generate", "-d", 1.2345, "--seed", 5, model, "-n", 2, "-o", tmp_path / "b", "--json")
    )
    for one, two in zip(made["files"], again["files"], strict=True):
        assert Path(one).read_bytes() == Path(two).read_bytes()
        info = soundfile.info(one)
        assert (info.frames, info.channels, info.samplerate) == (round(1.2345 * RATE), 2, RATE)
    source = folder / "in" / "0.wav"
    run("encode", model, source, "-o", tmp_path / "c.codes")
    run("decode", model, tmp_path / "c.codes", "-o", tmp_path / "d.wav")
    assert soundfile.info(tmp_path / "d.wav").frames == soundfile.info(source).frames
    scores = document(run("evaluate", model, folder / "corpus", "--json"))
    assert [row["levels"] for row in scores["depths"]] == [1, 2]
    kbps = [row["kbps_nominal"] for row in scores["depths"]]
    # Purpose generation: four STFT frames of 64 samples make a code frame.
    assert kbps[1] == pytest.approx(2 * 4 * RATE / 256 / 1000)
    facts = document(run("info", model, "--json", "--verify"))
    assert facts["has_prior"] is True


def test_the_manifest_has_the_health_of_the_epoch_that_is_kept(
    folder: Path, run: Command, trained: dict[str, Any]
) -> None:
    facts = document(run("info", trained["model_path"], "--json"))
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    best = next(
        event
        for event in events
        if event["event"] == "VQEpochMetrics" and event["epoch"] == trained["best_epoch"]
    )
    assert facts["codebook_health"] == best["codebook_health"]


def test_a_cut_prior_run_leaves_the_prior_that_is_there(
    folder: Path,
    run: Command,
    cancelled: Callable[..., tuple[int, dict[str, Any]]],
    with_prior: dict[str, Any],
    tmp_path: Path,
) -> None:
    model = tmp_path / "copy.distill"
    shutil.copy(with_prior["model_path"], model)
    before = model.read_bytes()
    arguments = (
        "train-prior", model, folder / "corpus", "--config", folder / "settings.toml",
        "--max-minutes", 5, "--batch-size", 4, "--num-workers", 0, "--no-report", "--json", "--overwrite",
    )  # fmt: skip
    log = tmp_path / "log"
    code, done = cancelled(*arguments, log=log, once=("epoch 2",))  # the first is over
    assert (code, done["exit_reason"]) == (3, "cancelled")
    assert model.read_bytes() == before
    assert "has is kept" in log.read_text()
    again = " ".join(log.read_text().split("train-prior")[-1].split())
    assert again.endswith("--json --overwrite")  # the line that goes on
    refused = document(run(*arguments, "--lr", 0.001, code=2))["error"]["message"]
    assert "interrupted prior run of other settings" in refused


def test_train_takes_a_plain_folder(folder: Path, run: Command) -> None:
    done = run(
        "train", "in", "--config", "settings.toml", "--codebook-size", 16, "--rvq-levels", 2, "--epochs", 1,
        "--batch-size", 16, "--num-workers", 0,
    )  # fmt: skip
    assert Path(done.stdout.strip()) == folder / "runs" / "in" / "in.distill"
    assert "(auto)" in done.stderr
    assert "(override)" in done.stderr
