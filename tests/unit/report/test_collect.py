"""Folders of runs, searches and pipelines, and files of models → what a report shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import save_model_v2
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import prepare_corpus
from distill_ray.errors import UsageError
from distill_ray.events.records import AudioSample, Notice, SweepCompleteEvent, SweepStarted
from distill_ray.prior import CodePrior
from distill_ray.report.collect import collect
from distill_ray.report.sounds import Wanted
from distill_ray.report.write import report_run, write_report
from distill_ray.runs.settings_file import RUN_SETTINGS, SEARCH_SETTINGS, write_settings
from distill_ray.vqvae import VQVAE

RATE = 8_000
CODEC = VQVAEConfig(
    sample_rate=RATE,
    width=16,
    encoder_blocks=1,
    decoder_blocks=1,
    latent_dim=16,
    num_quantizers=2,
    codebook_size=16,
    n_fft=128,
    hop=32,
)
PRIOR = PriorConfig(
    codebook_size=16, num_quantizers=2, hidden_size=16, num_layers=1, num_heads=2, context_frames=16
)


def save(path: Path, *, prior: bool = False) -> Path:
    torch.manual_seed(0)
    return save_model_v2(
        path,
        VQVAE(CODEC),
        metadata={"corpus": {"source": "s3://user:secret@bucket/birds", "digest": "ab" * 32, "files": 7}},
        codebook_health=(),
        prior=CodePrior(PRIOR) if prior else None,
        prior_metadata={},
    )


def begin(folder: Path, *, file: str = RUN_SETTINGS, **identity: str) -> Path:
    write_settings(
        folder / file,
        {"training.lr": 0.002, "model.codebook_size": 16, "sweep.max_kbps": 8.0},
        overrides=frozenset({"training.lr"}),
        identity=identity,
        corpus={},
        claim=True,
    )
    return folder


@pytest.fixture
def codec_folder(tmp_path: Path, write_log: Callable[..., Path], records: ModuleType) -> Path:
    """A finished run of a codec with samples."""
    folder = begin(tmp_path / "run", name="birds", corpus="ab" * 32)
    samples = [
        AudioSample(kind="original", file="original-0.flac", index=0, epoch=0, step=0, source="a/b/owl.wav"),
        AudioSample(
            kind="decoded", file="decoded-e00001-0.flac", index=0, epoch=1, step=10, source="a/b/owl.wav"
        ),
        AudioSample(kind="decoded", file="decoded-e00002-0.flac", index=0, epoch=2, step=20),
    ]
    write_log(folder, records.started(), records.epoch(1), *samples, records.epoch(2), records.complete())
    (folder / "samples").mkdir()
    for number, name in enumerate(("original-0", "decoded-e00001-0")):  # the third has been removed
        sound = records.tone(hertz=440.0 * (1 + number))
        soundfile.write(folder / "samples" / f"{name}.flac", sound.audio_TC, RATE)
    save(folder / "birds.distill")
    return folder


def test_a_codecs_run(codec_folder: Path) -> None:
    found, facts = collect(codec_folder, Wanted())
    assert (found.title, found.kind) == ("birds", "The training of a codec")
    overview = {fact.name: fact.value for fact in facts.overview}
    assert overview["trained on"] == "5 files, 2 min 5 s"
    assert overview["codec ended"].startswith("completed after 3 epochs, 30 steps, 30 s")
    (group,) = facts.excerpts
    assert group.title == "b/owl.wav from 0:00.0"
    assert [sound.label for sound in group.sounds] == ["original", "epoch 1", "by the kept model"]
    original, decoded, kept = (sound.audio_TC for sound in group.sounds)
    assert original.shape == decoded.shape == kept.shape == (RATE // 2, 1)
    assert np.abs(np.fft.rfft(decoded[:, 0])).argmax() == 440  # 880 Hz in half a second
    settings = {f"{each.table}.{each.name}": (each.value, each.source) for each in facts.settings}
    assert settings["training.lr"] == ("0.002", "override")
    assert settings["model.codebook_size"] == ("16", "auto")
    provenance = {fact.name: fact.value for fact in facts.provenance}
    assert provenance["trained"] == "2026-11-30 00:53 UTC to 2026-11-30 00:53 UTC"
    assert provenance["corpus digest"] == "ab" * 32
    assert facts.health == facts.runs[0].complete.codebook_health


def test_no_password_is_on_the_page(codec_folder: Path) -> None:
    html = write_report(codec_folder).path.read_text("utf-8")
    assert html.count("s3://***@bucket/birds") == 2  # for people and for programs
    assert "secret" not in html


def test_a_run_of_before_samples_has_a_report_and_says_what_is_missing(
    tmp_path: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    folder = begin(tmp_path / "run", name="old", corpus="ab")
    write_log(folder, records.started(), records.epoch(1))
    written = write_report(folder)
    assert written.path == folder / "report.html"
    assert written.sounds == 0
    assert "not yet, or cut short" in written.path.read_text("utf-8")
    assert any(f"`distill-ray report {folder} --data DATA` adds them" in note for note in written.notes)


def test_recordings_are_heard_where_the_run_kept_none(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).uniform(-0.2, 0.2, RATE)
        soundfile.write(tmp_path / "recordings" / f"{number}.wav", noise, RATE)
    model = save(tmp_path / "m.distill", prior=True)
    _, facts = collect(model, Wanted(data=str(tmp_path / "recordings"), sounds=2))
    assert facts.excerpts
    for group in facts.excerpts:
        assert [sound.label for sound in group.sounds] == ["original", "by the kept model"]
        assert group.title.startswith("recordings/")
        assert group.sounds[0].audio_TC.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.05)
    (generated,) = facts.generated
    assert [round(sound.seconds, 3) for sound in generated.sounds] == [6.0, 6.0]
    assert facts.kind == "A model"
    assert {each.table for each in facts.settings} == {"model", "prior"}


def test_a_run_s_own_recordings_are_heard_again(tmp_path: Path) -> None:
    """`report RUN` after a search replaced a page with excerpts by one without."""
    (tmp_path / "recordings").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).uniform(-0.2, 0.2, RATE)
        soundfile.write(tmp_path / "recordings" / f"{number}.wav", noise, RATE)
    run = tmp_path / "run"
    run.mkdir()
    save(run / "m.distill", prior=True)
    (run / "pipeline.json").write_text('{"name": "m", "stages": {}, "sources": ["recordings"]}')
    _, without = collect(run, Wanted())
    assert without.excerpts == ()
    config = CorpusConfig(sample_rate=RATE)
    prepare_corpus([tmp_path / "recordings"], run / "corpus", config=config, workers=1)
    _, facts = collect(run, Wanted())
    assert [sound.label for sound in facts.excerpts[0].sounds] == ["original", "by the kept model"]


def test_a_priors_run_knows_the_codecs_beside_it(
    codec_folder: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    save(codec_folder / "birds.distill", prior=True)
    folder = begin(codec_folder / "birds.prior", codec="cd" * 32, corpus="ab" * 32)
    sample = AudioSample(kind="generated", file="generated-e00001-1.flac", index=1, epoch=1, step=20)
    run = records.prior_run()
    write_log(folder, records.started("prior"), run.epochs[0], sample, run.epochs[1], run.complete)
    (folder / "samples").mkdir()
    soundfile.write(folder / "samples" / sample.file, records.tone().audio_TC, RATE)
    found, facts = collect(folder, Wanted())
    assert (found.title, found.codec, found.prior) == ("birds", codec_folder, folder)
    assert [each.kind for each in facts.runs] == ["vqvae", "prior"]
    assert facts.runs[1].histogram_bits == 800.0
    assert facts.runs[1].uniform_bits == pytest.approx(CODEC.frame_rate * 2 * 4)
    (group,) = facts.generated
    assert group.title == "After epoch 1 of the prior's training"
    assert [sound.label for sound in group.sounds] == ["sound 2"]
    assert {fact.name: fact.value for fact in facts.overview}["prior ended"].endswith(
        "held-out cost 500 bits per second of audio (epoch 2), 37.5\u00a0% below each level's histogram"
    )
    _, whole = collect(codec_folder, Wanted())
    assert [each.kind for each in whole.runs] == ["vqvae", "prior"]


@pytest.fixture
def search_folder(tmp_path: Path, write_log: Callable[..., Path], records: ModuleType) -> Path:
    folder = begin(tmp_path / "search", file=SEARCH_SETTINGS, name="birds")
    facts = records.search()
    events = (
        SweepStarted(
            name="birds",
            output_dir=str(folder),
            plan="efficient",
            search="grid",
            objective="val-loss",
            objective_definition="the held-out loss",
            trials=2,
            finalists=0,
            concurrent=1,
            gpus_per_trial=0.0,
            workers_per_trial=0,
            max_kbps=8.0,
        ),
        *facts.trials,
        SweepCompleteEvent(
            exit_reason="completed",
            chosen="k256-q8",
            candidates=facts.candidates,
            gpu_seconds=0.0,
            elapsed_s=60.0,
        ),
    )
    write_log(folder, *events)
    trial = begin(folder / "trials" / "k256-q8", name="k256-q8")
    write_log(trial, records.started(), records.epoch(1), records.complete())
    rows = [{"trial": "k256-q8", "prior_bits_per_second": 900.0}, {"trial": "k64-q8"}]
    (folder / "leaderboard.json").write_text(json.dumps({"trials": rows}))
    save(folder / "birds.distill")
    return folder


def test_a_search_shows_its_front_and_the_chosen_trials_training(search_folder: Path) -> None:
    found, facts = collect(search_folder, Wanted())
    assert found.codec == search_folder / "trials" / "k256-q8"
    assert facts.search is not None
    assert facts.search.prior_bits == {"k256-q8": 900.0}
    assert [row.eligible for row in facts.search.candidates] == [True, True, False]
    assert facts.search.candidates[0].objective == 1.25
    assert [run.kind for run in facts.runs] == ["vqvae"]
    written = write_report(search_folder)
    html = written.path.read_text("utf-8")
    assert "Rate and reconstruction" in html
    assert "Rate and generation" in html


def test_a_pipeline_shows_all_of_it(
    search_folder: Path, tmp_path: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    search_folder.rename(folder / "search")
    save(folder / "birds.distill", prior=True)
    (folder / "samples").mkdir()
    soundfile.write(folder / "samples" / "one.wav", records.tone().audio_TC, RATE)
    record = {
        "name": "birds",
        "sources": ["/recordings/of birds"],
        "stages": {
            "samples": {
                "sets": [
                    {"folder": "samples", "files": [{"name": "one.wav"}, {"name": "gone.wav"}]},
                ]
            }
        },
    }
    (folder / "pipeline.json").write_text(json.dumps(record))
    write_log(folder, Notice(level="warning", message="clipped recordings"))
    found, facts = collect(folder, Wanted(sounds=2))
    assert found.search == folder / "search"
    assert facts.overview[0].value == "/recordings/of birds"
    assert "clipped recordings" in facts.warnings
    assert [[sound.label for sound in group.sounds] for group in facts.generated] == [["one.wav"]]
    beside, _ = collect(folder / "birds.distill", Wanted())  # the model of it is the same report
    assert beside == found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "holds no run, no search and no model"),
        (lambda path: (path.mkdir(), (path / "pipeline.json").write_text("[]")), "cannot be read"),
    ],
)
def test_a_place_without_anything_of_ours_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "it")
    with pytest.raises(UsageError, match=message):
        collect(tmp_path / "it", Wanted())


def test_a_report_that_fails_is_a_warning(codec_folder: Path) -> None:
    heard: list[object] = []
    (codec_folder / "birds.distill").write_bytes(b"no model")
    assert report_run(codec_folder, heard.append) is None
    (notice,) = heard
    assert isinstance(notice, Notice)
    assert notice.level == "warning"
    assert notice.message.startswith("no report was written: ")
    assert "birds.distill" in notice.message
    assert not (codec_folder / "report.html").exists()


def test_a_sample_that_points_out_of_its_folder_is_not_read(
    codec_folder: Path, write_log: Callable[..., Path], records: ModuleType
) -> None:
    soundfile.write(codec_folder / "private.flac", records.tone().audio_TC, RATE)
    sample = AudioSample(kind="original", file="../private.flac", index=0, epoch=0, step=0)
    write_log(codec_folder, records.started(), sample)
    _, facts = collect(codec_folder, Wanted())
    assert facts.excerpts == ()


def test_a_report_takes_the_place_of_a_report_and_of_nothing_else(codec_folder: Path) -> None:
    first = write_report(codec_folder)
    assert write_report(codec_folder).path == first.path == codec_folder / "report.html"
    first.path.write_text("<html>my own page</html>")
    with pytest.raises(UsageError, match=r"report\.html is no report of distill-ray and is not replaced"):
        write_report(codec_folder)
    assert first.path.read_text() == "<html>my own page</html>"
    settings = codec_folder / "run.toml"
    before = settings.read_bytes()
    with pytest.raises(UsageError, match=r"run\.toml is no report of distill-ray"):
        write_report(codec_folder, settings)
    assert settings.read_bytes() == before
    with pytest.raises(UsageError, match="is not a regular file"):
        write_report(codec_folder, codec_folder)
