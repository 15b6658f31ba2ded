from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import distill_ray
from distill_ray.errors import ConfigError, CorpusError, UsageError
from distill_ray.generate.model import Model
from distill_ray.pipeline import run as run_pipeline
from distill_ray.python import trainings


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "birds"
    folder.mkdir()
    for number in range(4):
        noise_T = 0.1 * np.random.default_rng(number).standard_normal(8_000)
        soundfile.write(folder / f"{number}.wav", noise_T, 8_000)
    return folder


def test_a_folder_becomes_a_model_and_the_work_is_seen(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = distill_ray.train(
        recordings,
        out=tmp_path / "run",
        size="tiny",
        purpose="compression",
        codebook_size=16,
        rvq_levels=2,
        sample_rate=8_000,
        channels=2,
        epochs=1,
        batch_size=2,
        report=False,
    )
    assert isinstance(model, Model)
    assert (model.sample_rate, model.channels, model.has_prior) == (8_000, 2, False)
    assert model.loaded.path == tmp_path / "run" / "birds.distill"
    sound = model.decode(model.encode(np.zeros(4_000, np.int16), 8_000))
    assert sound.audio_CT.shape[0] == 2
    seen = capsys.readouterr()
    assert "epoch 1" in seen.err
    assert seen.out == ""


def test_without_progress_nothing_is_printed(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` is given to the pipeline as the command would give it."""
    seen: dict[str, Any] = {}

    def receive(**arguments: Any) -> run_pipeline.PipelineReport:
        seen.update(arguments)
        return run_pipeline.PipelineReport(
            output_dir=tmp_path,
            model_path=tmp_path / "m.distill",
            stages=(),
            reports={},
            samples=(),
            exit_code=0,
        )

    monkeypatch.setattr(run_pipeline, "run_everything", receive)
    monkeypatch.setattr(trainings, "_model", str)
    made: object = distill_ray.run(
        str(recordings), minutes=3, codebook_sizes=(64, 128), prior_minutes=2, tune=True, progress=False
    )
    assert made == str(tmp_path / "m.distill")
    assert seen["sources"] == [str(recordings)]
    assert seen["overrides"]["sweep.codebook_sizes"] == (64, 128)
    assert seen["overrides"]["pipeline.max_minutes"] == 3
    assert seen["overrides"]["prior_training.max_minutes"] == 2
    assert (seen["default_name"], seen["name"], seen["out"], seen["tune"]) == ("birds", None, None, None)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"minuts": 1}, "^minuts: no such argument; did you mean minutes"),
        ({"size": "huge", "rvq_levels": 0}, "^size: 'huge' is not one of .*; rvq_levels: 0 is below"),
        ({"name": "a/b"}, r"^name: 'a/b' contains a slash; a name is not a path \(out chooses the folder\)"),
    ],
)
def test_messages_name_arguments(recordings: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        distill_ray.train(recordings, **arguments)


def test_a_prior_s_options_have_their_names_in_run(recordings: Path) -> None:
    with pytest.raises(ConfigError, match=r"^prior_epochs: -1 is below"):
        distill_ray.run(recordings, prior_epochs=-1)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist; give a folder of audio"):
        distill_ray.train(tmp_path / "nowhere", epochs=1, progress=False)
    with pytest.raises(UsageError, match="no source was given"):
        distill_ray.run([], out=tmp_path / "x", progress=False)
