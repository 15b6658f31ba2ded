from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.config.resolve import RATES
from distill_ray.errors import CheckpointError, ConfigError, UsageError
from distill_ray.runs.run_folder import RunFolder, free_folders, new_run
from distill_ray.tune.folder import SweepFolder, common_settings, resumed_sweep
from distill_ray.tune.trial import TrialRecord, make_spec

GIVEN = {"sweep.codebook_sizes": (16, 32), "training.epochs": 3, "corpus.sample_rate": 8000}
SHARED = {
    **GIVEN,
    "sweep.max_kbps": 6.0,
    "sweep.max_concurrent": 2,
    "training.batch_size": 8,
    "model.hop": 64,
}
IDENTITY = {"name": "m", "size": "tiny", "corpus": "digest"}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    path = tmp_path / "s"
    new_run(SweepFolder(path=path), GIVEN).record(
        SHARED, IDENTITY, overrides=frozenset(GIVEN), corpus={"sample_rate": 8000}
    )
    return path


def test_a_search_goes_on_with_what_it_was_told_and_what_it_chose(begun: Path) -> None:
    start = resumed_sweep(SweepFolder(path=begun), {"sweep.max_concurrent": 1})
    assert {key: start.settings[key] for key in SHARED} == {**SHARED, "sweep.max_concurrent": 1}
    # It was recorded before there was this choice.
    assert start.settings["model.decoder_head"] == "compressed"
    assert start.identity == IDENTITY
    assert (start.source("training.epochs"), start.source("training.batch_size")) == ("override", "auto")
    start.check({"corpus": "digest"})
    with pytest.raises(UsageError, match="was made from another corpus"):
        start.check({"corpus": "other"})
    start.record(start.settings, IDENTITY, overrides=frozenset(GIVEN), corpus={})
    assert resumed_sweep(SweepFolder(path=begun), {}).settings["sweep.max_concurrent"] == 1


def test_a_search_over_sizes_leaves_to_each_trial_what_goes_by_size(tmp_path: Path) -> None:
    """It records no rates, which is not to say that it was begun before there were any."""
    of_sizes = {**SHARED, "sweep.sizes": ("small", "base")}
    new_run(SweepFolder(path=tmp_path / "s"), GIVEN).record(
        of_sizes, IDENTITY, overrides=frozenset(GIVEN), corpus={}
    )
    settings = resumed_sweep(SweepFolder(path=tmp_path / "s"), {}).settings
    assert settings.keys().isdisjoint(RATES)
    assert settings["augment.silence"] == 0.0


@pytest.mark.parametrize(
    "given",
    [
        {"training.epochs": 4},
        {"sweep.max_kbps": 5.0},
        {"sweep.codebook_sizes": (16, 64)},
        {"sweep.trials": 3},
        {"model.size": "small"},
    ],
)
def test_what_would_make_it_another_search_is_refused(begun: Path, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="in the resumed search and cannot become"):
        resumed_sweep(SweepFolder(path=begun), given)


def test_the_same_said_again_is_no_change(begun: Path) -> None:
    same = {"sweep.codebook_sizes": (32, 16), "training.epochs": 3, "sweep.gpus_per_trial": 0.5}
    assert resumed_sweep(SweepFolder(path=begun), same).settings["training.epochs"] == 3


def test_a_folder_holds_one_run_or_search(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="already holds a search; go on with it"):
        new_run(SweepFolder(path=begun), GIVEN)
    with pytest.raises(UsageError, match="already holds a search; choose another --out"):
        new_run(RunFolder(path=begun), {})
    (tmp_path / "run.toml").touch()
    with pytest.raises(UsageError, match="already holds a run; choose another --out"):
        new_run(SweepFolder(path=tmp_path), GIVEN)
    with pytest.raises(UsageError, match="holds no search to resume"):
        resumed_sweep(SweepFolder(path=tmp_path / "nowhere"), {})
    start = new_run(SweepFolder(path=tmp_path / "both"), GIVEN)
    start.record(SHARED, IDENTITY, overrides=frozenset(GIVEN), corpus={})
    with pytest.raises(UsageError, match="another process has begun a search"):
        start.record(SHARED, IDENTITY, overrides=frozenset(GIVEN), corpus={})
    monkeypatch.chdir(tmp_path)
    new_run(SweepFolder(path=tmp_path / "runs" / "m"), GIVEN).record(
        SHARED, IDENTITY, overrides=frozenset(GIVEN), corpus={}
    )
    assert next(free_folders("m")).path.name == "m-2"


def test_records_come_back_and_a_damaged_one_is_named(begun: Path) -> None:
    folder = SweepFolder(path=begun)
    tried = (("search", 16), ("search", 32), ("final", 16))
    records = tuple(
        TrialRecord(spec=make_spec(name, size, (2, 4), {}), state="completed") for name, size in tried
    )
    for record in reversed(records):
        folder.save(record)
    assert folder.records() == records
    (folder.trial("k16-q4").path / "trial.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"k16-q4/trial\.json"):
        folder.records()


def test_settings_that_differ_are_not_common() -> None:
    assert common_settings([{"a": 1, "b": 2}, {"a": 1, "b": 3}]) == {"a": 1}
