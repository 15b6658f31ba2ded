from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.config.resolve import RATES, CorpusFacts, dotted, resolve_vqvae
from distill_ray.errors import ConfigError, UsageError
from distill_ray.runs import run_folder
from distill_ray.runs.run_folder import (
    RunFolder,
    Start,
    begun_by_size,
    free_folders,
    new_prior_run,
    new_run,
    resumed_run,
)
from distill_ray.tune.folder import SweepFolder

GIVEN: dict[str, object] = {
    "corpus.sample_rate": 8_000,
    "model.codebook_size": 32,
    "training.epochs": 3,
    "prior.hidden_size": 64,
}


def begun(folder: Path) -> None:
    record(new_run(RunFolder(path=folder), GIVEN))


def record(start: Start[RunFolder]) -> None:
    """Begin a run as `pipeline.train_codec` does."""
    facts = CorpusFacts(file_count=9, train_seconds=60.0, sample_rate=8_000, channels=1)
    resolved = resolve_vqvae(facts, overrides=start.settings)
    identity = {"name": "m", "size": resolved.size, "corpus": "abc"}
    start.record(
        dotted(resolved.config), identity, overrides=resolved.overrides, corpus={"sample_rate": 8_000}
    )


def test_a_resumed_run_has_the_settings_it_began_with(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(RunFolder(path=tmp_path), {}, table="training")
    assert start.identity == {"name": "m", "size": "tiny", "corpus": "abc"}
    assert start.settings["model.codebook_size"] == 32
    assert start.settings["training.epochs"] == 3
    assert start.settings["corpus.sample_rate"] == 8_000
    assert "training.epochs" in start.overrides
    assert "training.lr" not in start.overrides


def forget(folder: Path, *names: str) -> None:
    """Let a run have been recorded before these settings existed."""
    settings = folder / "run.toml"
    lines = settings.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(names)]
    assert len(kept) == len(lines) - len(names)
    settings.write_text("".join(kept))


def test_a_run_from_before_a_setting_existed_goes_on_as_it_began(tmp_path: Path) -> None:
    begun(tmp_path)
    forget(
        tmp_path,
        "decoder_head",
        "decoder_norm",
        "codebook_lookup",
        "silence",
        "judged_every",
        "banded",
        "muon_rate",
        "head_rate",
        "bands",
        "purpose",
        "encoder_input",
        "consistency",
        "periods",
    )
    recorded = resumed_run(RunFolder(path=tmp_path), {}, table="training").settings
    assert recorded["model.decoder_head"] == "compressed"
    assert recorded["model.decoder_norm"] is False
    assert recorded["augment.silence"] == 0.0
    assert recorded["loss.bands"] == 0.0
    assert recorded["adversarial.judged_every"] == 1
    assert recorded["training.muon_rate"] == 0.0
    assert recorded["training.head_rate"] == 1.0
    assert recorded["adversarial.banded"] is True
    assert (recorded["model.purpose"], recorded["model.encoder_input"]) == ("compression", "complex")
    assert (recorded["loss.consistency"], recorded["adversarial.periods"]) == (0.0, 5)


def test_a_prior_s_run_from_before_altered_copies_goes_on_without(tmp_path: Path) -> None:
    begun(tmp_path)
    recorded = resumed_run(RunFolder(path=tmp_path), {}, table="prior_training").settings
    assert recorded["prior_training.variants"] == 0
    assert "model.purpose" in recorded


def test_what_goes_by_size_of_a_run_that_has_begun(tmp_path: Path) -> None:
    assert begun_by_size(RunFolder(path=tmp_path)) == {}
    begun(tmp_path)
    codec = begun_by_size(RunFolder(path=tmp_path))
    assert codec["model.codebook_size"] == 32
    assert codec["model.width"] == 128
    assert codec["training.muon_rate"] == 2.0
    assert {key for key in codec if not key.startswith("model.")} == set(RATES)
    forget(tmp_path, "decoder_head", "head_rate")
    before = {"model.decoder_head": "compressed", "training.head_rate": 1.0}
    assert begun_by_size(RunFolder(path=tmp_path)) == codec | before


def test_the_settings_file_of_the_first_part_is_welcome_again(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(
        RunFolder(path=tmp_path), {**GIVEN, "model.size": "tiny", "training.epochs": 5}, table="training"
    )
    assert start.settings["training.epochs"] == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.codebook_size", 64),
        ("training.lr", 0.5),
        ("corpus.sample_rate", 44_100),
        ("corpus.channels", 2),  # nothing was recorded of them: it was prepared with the default
        ("model.size", "base"),
    ],
)
def test_what_makes_it_another_run_is_refused(tmp_path: Path, key: str, value: object) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError) as refused:
        resumed_run(RunFolder(path=tmp_path), {**GIVEN, key: value}, table="training")
    assert [problem.key for problem in refused.value.problems] == [key]


def test_minutes_take_the_place_of_epochs(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(RunFolder(path=tmp_path), {"training.max_minutes": 2.0}, table="training")
    assert start.settings["training.max_minutes"] == 2.0
    assert "training.epochs" not in start.settings


def test_a_run_may_go_on_under_another_health_rule(tmp_path: Path) -> None:
    given = {**GIVEN, "health.stop": True, "health.floor": 0.25}
    record(new_run(RunFolder(path=tmp_path), given))
    start = resumed_run(RunFolder(path=tmp_path), {}, table="training")
    assert (start.settings["health.stop"], start.settings["health.floor"]) == (True, 0.25)
    changed = {"health.stop": False, "health.measure": "entropy"}
    start = resumed_run(RunFolder(path=tmp_path), {**given, **changed}, table="training")
    assert (start.settings["health.stop"], start.settings["health.measure"]) == (False, "entropy")
    assert start.settings["health.floor"] == 0.25


def test_the_name_and_size_of_the_first_part_are_welcome_again(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(RunFolder(path=tmp_path), {"model.size": "tiny"}, table="training")
    start.refuse_renaming(start.identity["name"], what="run")
    start.refuse_renaming(None, what="run")
    with pytest.raises(UsageError, match="the name of the resumed run is m and cannot become n; leave out"):
        start.refuse_renaming("n", what="run")
    message = r"--size \(model.size\): is 'tiny' in the resumed run and cannot become 'base'"
    with pytest.raises(ConfigError, match=message):
        resumed_run(RunFolder(path=tmp_path), {"model.size": "base"}, table="training")


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    start = resumed_run(RunFolder(path=tmp_path), {}, table="training")
    start.check({"corpus": "abc"})
    with pytest.raises(UsageError, match="made from another corpus"):
        start.check({"corpus": "def"})


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        resumed_run(RunFolder(path=tmp_path), {}, table="training")


def test_a_run_is_never_begun_in_the_folder_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path)
    with pytest.raises(UsageError, match="already holds a run"):
        new_run(RunFolder(path=tmp_path), GIVEN)
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "runs" / "m")
    assert next(free_folders("m")).path == tmp_path / "runs" / "m-2"


def test_of_two_runs_that_found_the_same_folder_free_one_gets_it(tmp_path: Path) -> None:
    one, two = (
        new_run(RunFolder(path=tmp_path), GIVEN),
        new_run(RunFolder(path=tmp_path), {**GIVEN, "training.seed": 2}),
    )
    record(one)
    before = (tmp_path / "run.toml").read_bytes()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="another process has begun a run"):
        record(two)
    assert (tmp_path / "run.toml").read_bytes() == before
    assert (tmp_path / "checkpoints").exists()


def test_a_finished_prior_run_makes_room(tmp_path: Path) -> None:
    record(new_prior_run(RunFolder(path=tmp_path), GIVEN))
    latest = tmp_path / "checkpoints" / "latest"
    latest.mkdir(parents=True)
    (latest / "progress.json").write_text('{"ended": "cancelled"}')
    with pytest.raises(UsageError, match="interrupted prior run"):
        new_prior_run(RunFolder(path=tmp_path), GIVEN)
    (latest / "progress.json").write_text('{"ended": "completed"}')
    record(new_prior_run(RunFolder(path=tmp_path), {**GIVEN, "training.epochs": 7}))
    assert not latest.exists()
    assert resumed_run(RunFolder(path=tmp_path), {}, table="training").settings["training.epochs"] == 7


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match=r"cannot be written \(File exists\); choose another --out$"):
        begun(tmp_path / "out")
    with pytest.raises(UsageError, match=r"cannot be written \(File exists\); move it$"):
        record(new_prior_run(RunFolder(path=tmp_path / "out", advice="move it"), GIVEN))


FILES = ["trials.parquet", "leaderboard.json", "error.log", "samples/mine.flac", "report.html"]
FOREIGN = ["checkpoints/latest/weights.bin", "ray/src/main.py", "trials/a", "tensorboard/x", "events.jsonl"]


@pytest.mark.parametrize("name", [*FOREIGN, *FILES])
@pytest.mark.parametrize(
    "begin", [new_run, new_prior_run, lambda folder, given: new_run(SweepFolder(path=folder.path), given)]
)
def test_what_a_run_would_write_into_or_remove_must_be_of_a_run(tmp_path: Path, name: str, begin) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("precious")
    top = name.partition("/")[0]
    with pytest.raises(UsageError, match=f"holds {top}, which is of no run that is recorded there; choose"):
        begin(RunFolder(path=tmp_path), GIVEN)
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("name", ["checkpoints", "ray", "events.jsonl"])
def test_a_link_where_a_run_would_write_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match=f"holds {name}, which is of no run"):
        new_run(RunFolder(path=tmp_path / "run"), GIVEN)


def test_other_things_in_the_folder_of_a_run_are_left(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other.distill").write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    begun(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt",
        "other.distill",
        "checkpoints",
        "run.toml",
    }


def test_a_model_that_no_run_of_the_folder_has_made_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.distill").write_text("precious")
    start = new_run(RunFolder(path=tmp_path), GIVEN)
    with pytest.raises(UsageError, match=r"holds m\.distill, which is of no run that is recorded there"):
        record(start)
    assert not (tmp_path / "run.toml").exists()


def test_checkpoints_of_others_at_a_uri_are_refused(tmp_path: Path) -> None:
    uri = (tmp_path / "far").as_uri()
    mine = tmp_path / "far" / "checkpoints" / "mine.bin"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(UsageError, match="far holds checkpoints, which is of no run"):
        new_run(RunFolder(path=tmp_path / "here", uri=uri), GIVEN)
    assert mine.read_text() == "precious"


def test_a_recorded_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    settings = tmp_path / "run.toml"
    settings.write_text(settings.read_text().replace('name = "m"', 'name = "../m"'))
    with pytest.raises(UsageError, match=r"run\.toml holds the name '\.\./m', which cannot be used"):
        resumed_run(RunFolder(path=tmp_path), {}, table="training")


def test_a_run_that_others_can_write_to_is_not_resumed(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(UsageError, match="run is not resumed: everybody can write to "):
        resumed_run(RunFolder(path=tmp_path / "run"), {}, table="training")


def test_all_that_a_run_writes_beside_its_settings_is_looked_for() -> None:
    from distill_ray.display.log import LOG_NAME, SCALARS_FOLDER
    from distill_ray.report.write import NAME as REPORT
    from distill_ray.runs.samples import FOLDER as SAMPLES

    assert {LOG_NAME, SCALARS_FOLDER, REPORT, SAMPLES, "ray", "trials", "error.log"} <= set(
        run_folder._RESULTS
    )
