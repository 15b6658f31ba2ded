"""The bookkeeping of `distill-ray run`: real corpora, files and samples; the trainings are stood in for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill_ray.bundle import read_manifest, save_model_v2, save_prior_to_model
from distill_ray.config.prior import PriorConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.display import trial_listener
from distill_ray.errors import CancelledError, ConfigError, CorpusError, TrainingError, UsageError
from distill_ray.events.recordings import RecordingsFound
from distill_ray.events.records import Event, Notice, PipelinePlan, StageProgress
from distill_ray.pipeline import sharing
from distill_ray.pipeline import train as pipeline
from distill_ray.pipeline.run import PipelineReport, run_everything
from distill_ray.prior import CodePrior
from distill_ray.runtime.plan import WorkerPlan
from distill_ray.storage.lock import folder_lock
from distill_ray.tune import tune as sweep_pipeline
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
SETTINGS = {
    "corpus.sample_rate": RATE,
    "corpus.val_fraction": 0.5,
    "sweep.codebook_sizes": (16, 32),
    "training.epochs": 2,
    "prior_training.epochs": 3,
    "generate.count": 2,
    "generate.seconds": 0.25,
}
ON_CORPUS = {key: value for key, value in SETTINGS.items() if key != "corpus.val_fraction"}
NAMES = ("prepare", "tune", "prior", "samples")


@dataclasses.dataclass
class Report:
    model_path: Path | None
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"best": {"codebook_size": 16, "rvq_levels": 2}, "model_path": str(self.model_path)}


class Trainings:
    """Stands for the search and the prior's training: keeps the calls, writes files of the real kind."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.search_ends = 0
        self.name = "m"
        self.fails: BaseException | None = None
        self.fails_in = ""

    def tune(self, **arguments: Any) -> Report:
        folder = (arguments["resume"] or arguments["out"]).path
        folder.mkdir(exist_ok=True)
        (folder / "sweep.toml").write_text("[training]\nepochs = 2\n[run]\nname = 'm'\noverrides = []\n")
        self._called("tune", arguments)
        if self.search_ends:
            return Report(None, exit_code=self.search_ends)
        self.name = arguments["name"] or self.name
        torch.manual_seed(1)
        return Report(
            save_model_v2(folder / f"{self.name}.distill", VQVAE(CODEC), metadata={}, codebook_health=[])
        )

    def prior(self, **arguments: Any) -> Report:
        folder = arguments["model"].with_suffix(".prior")
        folder.mkdir(exist_ok=True)
        (folder / "run.toml").write_text("[prior_training]\nepochs = 3\n")
        self._called("prior", arguments)
        torch.manual_seed(2)
        return Report(save_prior_to_model(arguments["model"], CodePrior(PRIOR), prior_metadata={}))

    def names(self) -> list[str]:
        """Which were called since it was last asked for."""
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names

    def _called(self, name: str, arguments: dict[str, Any]) -> None:
        self.calls.append((name, arguments))
        if name == self.fails_in and self.fails is not None:
            raise self.fails


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(sweep_pipeline, "tune_codec", made.tune)
    monkeypatch.setattr(pipeline, "train_code_prior", made.prior)
    return made


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        add(folder, number)
    return folder


def add(folder: Path, number: int) -> None:
    samples = 0.1 * np.random.default_rng(number).standard_normal(RATE // 2)
    soundfile.write(folder / f"{number}.wav", samples, RATE)


@dataclasses.dataclass
class Runner:
    """Calls the pipeline as the command does, with settings that may be changed; keeps the events."""

    sources: Path
    out: Path
    events: list[Event] = dataclasses.field(default_factory=list)

    def __call__(self, settings: dict[str, object] | None = None, **changes: Any) -> PipelineReport:
        self.events.clear()
        arguments: dict[str, Any] = {
            "sources": [str(self.sources)],
            "overrides": SETTINGS if settings is None else settings,
            "config_file": None,
            "out": self.out,
            "name": "m",
            "default_name": "in",
            "resume": None,
            "tune": None,
            "plan": WorkerPlan(num_workers=0),
            "address": None,
            "listener": self.listen,
            "trial_listener": trial_listener,
        }
        return run_everything(**{**arguments, **changes})

    def listen(self, event: Event) -> None:
        self.events.append(event)

    def planned(self) -> dict[str, str]:
        """Stage by stage: "skipped" or "runs", with the reason."""
        (plan,) = [event for event in self.events if isinstance(event, PipelinePlan)]
        return {item.stage: f"{'skipped' if item.skipped else 'runs'}: {item.reason}" for item in plan.stages}

    def skipped(self) -> list[str]:
        return [stage for stage, words in self.planned().items() if words.startswith("skipped")]


@pytest.fixture
def run(trainings: Trainings, sources: Path, tmp_path: Path) -> Runner:
    return Runner(sources, tmp_path / "out")


def content(folder: Path) -> dict[str, str]:
    """What every file holds, but for the log and the lock."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "events.jsonl")
    }


def states(report: PipelineReport) -> list[str]:
    return [item.state for item in report.stages]


def test_a_size_wins_over_what_a_run_had_chosen_by_its_own(
    run: Runner, trainings: Trainings, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text("[run]\noverrides = []\n[model]\nwidth = 128\nhop = 512\n")
    run({**SETTINGS, "model.size": "small"}, config_file=tmp_path / "run.toml")
    search = trainings.calls[0][1]["overrides"]
    assert "model.width" not in search
    assert search["model.hop"] == 512


def test_all_stages_run_in_order_and_end_in_one_file(run: Runner, trainings: Trainings) -> None:
    report = run()
    out = run.out
    assert run.planned() == {
        "prepare": "runs: nothing is there yet",
        "tune": "runs: after prepare",
        "prior": "runs: after tune",
        "samples": "runs: after prior",
    }
    search, prior = (arguments for _, arguments in trainings.calls)
    assert (search["data"], search["out"].path, search["name"]) == (str(out / "corpus"), out / "search", "m")
    assert search["overrides"] == {
        key: value for key, value in ON_CORPUS.items() if not key.startswith("generate.")
    }
    assert (prior["model"], prior["data"], prior["resume"]) == (
        out / "m.distill",
        str(out / "corpus"),
        False,
    )
    assert prior["overwrite"]  # the stage knows by itself whether the one that is there stays
    whole = read_manifest(out / "m.distill")
    assert whole.has_prior
    assert not read_manifest(out / "search" / "m.distill").has_prior
    document = report.to_json()
    assert document["model_path"] == str(out / "m.distill")
    assert [stage["state"] for stage in document["stages"]] == ["done"] * 4
    assert (document["corpus"]["files"], document["codec"]) == (3, None)
    assert document["tune"]["best"] == {"codebook_size": 16, "rvq_levels": 2}
    assert [Path(path).name for path in document["samples"]] == ["sample_s0_000.wav", "sample_s0_001.wav"]
    assert [soundfile.info(path).frames for path in document["samples"]] == [RATE // 4] * 2
    json.dumps(document)


def test_recordings_that_cannot_be_used_are_said(run: Runner) -> None:
    (run.sources / "broken.wav").write_text("no audio")
    report = run()
    (found,) = [event for event in run.events if isinstance(event, RecordingsFound)]
    assert found.rows[0] == (
        "left out",
        "broken.wav",
        "it cannot be decoded: it is no audio file, or a damaged one",
    )
    assert [row[0] for row in found.rows[1:]] == ["held out"]
    assert [item["path"] for item in report.to_json()["corpus"]["rejected"]] == [f"{run.sources}/broken.wav"]


@pytest.mark.parametrize("how", ["again", "resume"])
def test_finished_work_is_not_done_again(run: Runner, trainings: Trainings, how: str) -> None:
    first = run()
    trainings.names()
    before = content(run.out)
    if how == "again":
        second = run()
    else:
        second = run({}, sources=[], out=None, name=None, resume=run.out)
    assert trainings.names() == []
    assert run.planned() == {
        "prepare": "skipped: the corpus of these 3 recordings is there",
        "tune": "skipped: the search is finished (16 codes × 2 levels)",
        "prior": "skipped: m.distill has a prior for this codec",
        "samples": "skipped: 2 of 0.25 s with seed 0 are there",
    }
    assert content(run.out) == before
    assert {**second.to_json(), "stages": None} == {**first.to_json(), "stages": None}


@pytest.mark.parametrize("stage", ["tune", "prior"])
@pytest.mark.parametrize("error", [TrainingError("out of memory"), KeyboardInterrupt()])
def test_a_failed_stage_goes_on_and_the_earlier_ones_are_skipped(
    run: Runner, trainings: Trainings, stage: str, error: BaseException
) -> None:
    trainings.fails_in, trainings.fails = stage, error
    with pytest.raises((TrainingError, CancelledError)) as caught:
        run()
    if isinstance(error, KeyboardInterrupt):
        assert f"stopped at stage {stage}" in str(caught.value)
    assert caught.value.goes_on
    trainings.names()
    trainings.fails = None
    assert states(run()) == ["skipped"] * NAMES.index(stage) + ["done"] * (4 - NAMES.index(stage))
    assert run.planned()[stage].startswith("runs: goes on with the ")
    (resumed,) = (call["resume"] for name, call in trainings.calls if name == stage)
    assert resumed is True if stage == "prior" else resumed.path == run.out / "search"


def test_the_same_command_goes_on_without_out_until_it_is_finished(
    run: Runner, trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainings.fails_in, trainings.fails = "prior", KeyboardInterrupt()
    with pytest.raises(CancelledError):
        run(out=None)
    other = {**SETTINGS, "prior_training.epochs": 4}
    for changes in ({"settings": other}, {"new": True}):
        with pytest.raises(CancelledError):
            run(**{"out": None, **changes})
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["m", "m-2", "m-3"]
    trainings.fails = None
    trainings.names()
    done = run(out=None)  # the newest of the same command, which --new had begun
    assert (done.output_dir, trainings.names()) == (tmp_path / "runs" / "m-3", ["prior"])
    notes = [event.message for event in run.events if isinstance(event, Notice)]
    assert notes[0] == (f"going on with the unfinished run in {tmp_path}/runs/m-3; --new begins another one")
    assert run(out=None).output_dir == tmp_path / "runs" / "m-4"
    with pytest.raises(UsageError, match="holds a run, and --new begins another"):
        run(out=tmp_path / "runs" / "m", new=True)


def test_other_recordings_begin_another_run(
    run: Runner, trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainings.fails_in, trainings.fails = "prior", KeyboardInterrupt()
    with pytest.raises(CancelledError):
        run(out=None)
    trainings.fails = None
    add(run.sources, 7)
    assert run(out=None).output_dir == tmp_path / "runs" / "m-2"
    assert any("the recordings have changed" in str(event) for event in run.events)


def test_samples_that_were_cut_are_made_again(
    run: Runner, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        run.events.append(event)
        if isinstance(event, StageProgress) and event.stage == "generate":
            raise KeyboardInterrupt

    with pytest.raises(CancelledError):
        run(listener=stop)
    trainings.names()
    report = run()
    assert trainings.names() == []
    assert states(report) == ["skipped", "skipped", "skipped", "done"]
    assert run.planned()["samples"] == "runs: they were not all made"
    assert len(report.samples) == 2


@pytest.mark.parametrize(("code", "reason"), [(3, "cancelled"), (4, "health"), (1, "failed")])
def test_a_search_without_a_winner_ends_everything(
    run: Runner, trainings: Trainings, code: int, reason: str
) -> None:
    trainings.search_ends = code
    report = run()
    assert (report.exit_code, report.model_path, report.samples) == (code, None, ())
    assert states(report) == ["done", "ended", "not run", "not run"]
    assert report.to_json()["exit_reason"] == reason
    assert trainings.names() == ["tune"]
    trainings.search_ends = 0
    assert states(run()) == ["skipped", "done", "done", "done"]


def test_without_a_search_the_only_value_of_a_list_is_the_codecs(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def train_codec(**arguments: Any) -> None:
        given.update(arguments["overrides"])
        raise TrainingError("enough")

    monkeypatch.setattr(pipeline, "train_codec", train_codec)
    monkeypatch.setattr(sharing, "_too_little_time", lambda context, budget: "there is too little time")
    with pytest.raises(TrainingError, match="enough"):
        run({**SETTINGS, "sweep.rvq_levels": (2,), "pipeline.max_minutes": 2.0})
    assert given["model.num_quantizers"] == 2
    assert "model.codebook_size" not in given  # of (16, 32)
    said = [event.message for event in run.events if isinstance(event, Notice)]
    assert (
        "without a search --codebook-sizes is not used; model.codebook_size is chosen from the recordings"
        in said
    )


def test_other_recordings_are_refused_once_the_search_has_begun(run: Runner, trainings: Trainings) -> None:
    run()
    before = content(run.out)
    add(run.sources, 3)
    with pytest.raises(UsageError, match=r"recordings have changed .* \(3 then, 4 now\)"):
        run()
    assert content(run.out) == before
    (run.sources / "3.wav").unlink()
    run()
    assert run.skipped() == list(NAMES)


def test_other_recordings_are_taken_before_the_search_has_begun(run: Runner, trainings: Trainings) -> None:
    trainings.fails_in, trainings.fails = "tune", TrainingError("no")
    with pytest.raises(TrainingError):
        run()
    shutil.rmtree(run.out / "search")
    trainings.fails = None
    add(run.sources, 3)
    report = run()
    assert run.planned()["prepare"] == "runs: the recordings have changed"
    assert report.to_json()["corpus"]["files"] == 4


def test_a_call_that_came_to_nothing_leaves_no_name(
    run: Runner, trainings: Trainings, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError):
        run(sources=[str(tmp_path / "empty")], name=None, default_name="empty")
    run(name=None)
    assert [path.name for path in run.out.glob("*.distill")] == ["in.distill"]


def test_a_damaged_corpus_is_made_again_for_the_same_recordings(run: Runner, trainings: Trainings) -> None:
    digest = run().to_json()["corpus"]["digest"]
    shutil.rmtree(run.out / "corpus" / "shards")
    trainings.names()
    report = run()
    assert run.planned()["prepare"] == "runs: the corpus is missing or damaged"
    assert run.skipped() == ["tune"]
    assert report.to_json()["corpus"]["digest"] == digest


def test_a_prepared_corpus_is_used_where_it_is(run: Runner, trainings: Trainings, tmp_path: Path) -> None:
    run()
    trainings.names()
    corpus = tmp_path / "out" / "corpus"
    report = run(ON_CORPUS, sources=[str(corpus)], out=tmp_path / "other")
    assert run.planned()["prepare"] == f"skipped: {corpus} is a prepared corpus"
    assert trainings.calls[0][1]["data"] == str(corpus)
    assert report.to_json()["corpus"]["files"] == 3
    assert not (tmp_path / "other" / "corpus").exists()


def test_recordings_are_prepared_as_the_command_says(run: Runner, trainings: Trainings) -> None:
    asked = {"corpus.channels": 2, "corpus.sample_rate": 16_000, "corpus.val_fraction": 0.0}
    report = run({**SETTINGS, **asked}).to_json()["corpus"]
    assert (report["channels"], report["sample_rate"], report["files_val"]) == (2, 16_000, 0)
    overrides = trainings.calls[0][1]["overrides"]
    assert (overrides["corpus.channels"], overrides["corpus.sample_rate"]) == (2, 16_000)
    assert "corpus.val_fraction" not in overrides  # what it is given is a corpus, with its split
    with pytest.raises(ConfigError, match="where prepare is finished"):
        run({**SETTINGS, **asked, "corpus.channels": 1})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"corpus.val_fraction": 0.3}, r"--val-fraction .* is a prepared corpus, which keeps the split"),
        ({"corpus.channels": 2}, "mono, but the settings are for 8000 Hz stereo; prepare it again with "),
    ],
)
def test_a_prepared_corpus_is_what_it_is(
    run: Runner, tmp_path: Path, asked: dict[str, object], words: str
) -> None:
    run()
    with pytest.raises((ConfigError, CorpusError), match=words):
        run({**ON_CORPUS, **asked}, sources=[str(tmp_path / "out" / "corpus")], out=tmp_path / "other")


def test_a_codec_gets_no_prior_on_another_corpus(run: Runner, trainings: Trainings, tmp_path: Path) -> None:
    trainings.fails_in, trainings.fails = "prior", TrainingError("no")
    with pytest.raises(TrainingError):
        run()
    with pytest.raises(TrainingError):
        run(ON_CORPUS, sources=[str(run.out / "corpus")], out=tmp_path / "other")
    trainings.names()
    trainings.fails = None
    add(run.sources, 3)
    with pytest.raises(UsageError, match=r"is not what the codec in .* was trained on"):
        run(out=tmp_path / "other")
    assert trainings.names() == []


def test_settings_of_finished_stages_stay(run: Runner, trainings: Trainings) -> None:
    run()
    before = content(run.out)
    changes = {**SETTINGS, "training.epochs": 5, "prior_training.lr": 0.5, "sweep.max_concurrent": 3}
    with pytest.raises(ConfigError) as caught:
        run(changes)
    assert [problem.key for problem in caught.value.problems] == ["training.epochs", "prior_training.lr"]
    assert content(run.out) == before


def test_a_search_that_has_begun_keeps_its_settings(run: Runner, trainings: Trainings) -> None:
    trainings.search_ends = 3
    run()
    before = content(run.out)
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        run({**SETTINGS, "training.epochs": 5})
    assert content(run.out) == before


def test_settings_of_stages_to_come_may_change(run: Runner, trainings: Trainings) -> None:
    trainings.search_ends = 3
    run()
    trainings.search_ends = 0
    run({"prior_training.epochs": 7})
    assert trainings.calls[-1][1]["overrides"]["prior_training.epochs"] == 7
    assert trainings.calls[-1][1]["overrides"]["training.epochs"] == 2


def test_all_wrong_settings_are_said_before_anything_is_done(run: Runner) -> None:
    wrong = {
        "corpus.channels": 9,
        "sweep.finalists": 0,
        "training.lr": -1.0,
        "prior.num_layers": 0,
        "generate.seconds": 0.0,
        "modle.width": 3,
    }
    with pytest.raises(ConfigError) as caught:
        run(wrong, plan=WorkerPlan(num_workers=-1))
    assert {problem.key for problem in caught.value.problems} == {*wrong, "num_workers"}
    assert len(caught.value.problems) == 7
    assert not run.out.exists()


def test_other_samples_do_not_take_the_place_of_those_that_are_there(run: Runner) -> None:
    first = run()
    before = content(run.out / "samples")
    longer = run({"generate.seconds": 0.5})
    assert run.planned()["samples"] == "runs: other ones are there"
    assert [Path(path).parent.name for path in longer.samples] == ["samples-2"] * 2
    assert content(run.out / "samples") == before
    more = run({"generate.seconds": 0.25, "generate.count": 3})
    assert more.samples[:2] == first.samples
    assert len(more.samples) == 3
    assert before.items() <= content(run.out / "samples").items()
    fewer = run({"generate.count": 1})
    assert run.skipped() == list(NAMES)
    assert fewer.samples == first.samples[:1]


def test_a_late_run_makes_fewer_and_shorter_samples_and_says_so(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_too_little_time", lambda context, budget: "")
    late = {**SETTINGS, "generate.count": 3, "generate.seconds": 2.0, "pipeline.max_minutes": 2.0}
    began = time.monotonic() - 1000.0
    report = run(late, began=began)
    assert [soundfile.info(path).frames for path in report.samples] == [RATE]  # one second of one
    said = [event.message for event in run.events if isinstance(event, Notice)]
    assert "samples: 1 of 3 made, of 1 s each, for lack of time: `distill-ray generate` makes more" in said
    again = run({}, began=began)
    assert run.planned()["samples"] == "skipped: 1 of 1 s with seed 0 are there, of 3 for lack of time"
    assert again.samples == report.samples
    more = run({"pipeline.max_minutes": 60.0})
    assert [soundfile.info(path).frames for path in more.samples] == [2 * RATE] * 3


def test_lost_samples_are_made_again(run: Runner) -> None:
    run()
    before = content(run.out / "samples")
    (run.out / "samples" / "sample_s0_001.wav").unlink()
    run()
    assert run.skipped() == ["prepare", "tune", "prior"]
    assert content(run.out / "samples") == before


def test_a_lost_model_is_put_together_again(run: Runner, trainings: Trainings) -> None:
    run()
    whole = (run.out / "m.distill").read_bytes()
    (run.out / "m.distill").unlink()
    trainings.names()
    run()
    assert run.skipped() == ["prepare", "tune"]
    assert [(name, call["resume"]) for name, call in trainings.calls] == [("prior", True)]
    assert (run.out / "m.distill").read_bytes() == whole


def test_a_prior_of_another_command_is_kept_and_its_samples_are_new(
    run: Runner, trainings: Trainings
) -> None:
    run()
    before = content(run.out / "samples")
    torch.manual_seed(99)
    save_prior_to_model(run.out / "m.distill", CodePrior(PRIOR), prior_metadata={"bits_per_second": 12.5})
    trained = (run.out / "m.distill").read_bytes()
    trainings.names()
    report = run()
    assert trainings.names() == []
    assert run.skipped() == ["prepare", "tune", "prior"]
    assert (run.out / "m.distill").read_bytes() == trained
    assert report.to_json()["prior"]["bits_per_second"] == 12.5
    assert content(run.out / "samples") == before
    assert report.samples_dir == str(run.out / "samples-2")


def test_a_foreign_model_is_not_replaced(run: Runner, trainings: Trainings) -> None:
    run()
    torch.manual_seed(5)
    save_model_v2(run.out / "m.distill", VQVAE(CODEC), metadata={}, codebook_health=[])
    before = content(run.out)
    with pytest.raises(UsageError, match="holds another codec"):
        run()
    assert content(run.out) == before


def foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")


def damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / "pipeline.json").write_text('{"version": 1, "name": ')


def newer(folder: Path) -> None:
    folder.mkdir()
    (folder / "pipeline.json").write_text('{"version": 2}')


@pytest.mark.parametrize(
    ("make", "words"),
    [(foreign, "holds other things"), (damaged, "cannot be used"), (newer, "newer distill-ray")],
)
def test_folders_that_cannot_be_used(run: Runner, make: Callable[[Path], None], words: str) -> None:
    make(run.out)
    before = content(run.out)
    with pytest.raises(UsageError, match=words):
        run()
    assert content(run.out) == before
    assert make is not foreign or not (run.out / ".lock").exists()


def test_there_must_be_something_to_resume_and_a_source_to_begin_with(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run to go on with"):
        run(resume=tmp_path / "nothing", out=None)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(UsageError, match="no source was given"):
        run(sources=[])
    with pytest.raises(UsageError, match="leave out --out"):
        run(resume=run.out)


def test_one_call_at_a_time(run: Runner) -> None:
    with folder_lock(run.out, None), pytest.raises(UsageError, match="another process is at work"):
        run()


def test_another_name_or_kind_of_run_is_refused(run: Runner) -> None:
    run()
    with pytest.raises(UsageError, match="is called m and not n"):
        run(name="n")
    with pytest.raises(UsageError, match="searches for the codec"):
        run(tune=False)


def test_without_a_search_its_settings_are_refused(run: Runner) -> None:
    with pytest.raises(ConfigError, match=r"--codebook-sizes .* --no-tune leaves out"):
        run(tune=False)


def test_without_a_search_its_time_budget_is_the_codecs(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run --no-tune --max-minutes 2 --prior-minutes 0.5`, then --max-minutes 3 for the run in the folder."""
    calls: list[dict[str, Any]] = []

    def fail(**arguments: Any) -> None:
        calls.append(arguments["overrides"])
        raise TrainingError("stopped")

    monkeypatch.setattr(pipeline, "train_codec", fail)
    codec = {key: value for key, value in SETTINGS.items() if not key.startswith("sweep.")}
    with pytest.raises(TrainingError):
        run({**codec, "sweep.max_minutes": 2.0, "prior_training.max_minutes": 0.5}, tune=False)
    assert (calls[0]["training.max_minutes"], calls[0]["prior_training.max_minutes"]) == (2.0, 0.5)
    assert not any(key.startswith("sweep.") for key in calls[0])
    with pytest.raises(TrainingError):
        run({"sweep.max_minutes": 3.0}, name=None)
    assert calls[1]["training.max_minutes"] == 3.0
    with pytest.raises(ConfigError, match="7 windows cannot be shared by 2 workers"):
        run({"prior_training.batch_size": 7}, name=None, plan=WorkerPlan(num_workers=2))
    with pytest.raises(ConfigError, match=r"--max-minutes \(training.max_minutes\): -1.0 must be greater"):
        run({"sweep.max_minutes": -1.0}, name=None)


def test_without_out_the_first_free_folder_is_taken(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reports = [run(out=None, name=None) for _ in range(2)]
    assert [item.output_dir for item in reports] == [tmp_path / "runs" / "in", tmp_path / "runs" / "in-2"]
    assert reports[0].model_path == tmp_path / "runs" / "in" / "in.distill"
