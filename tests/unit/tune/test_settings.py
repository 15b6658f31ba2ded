from __future__ import annotations

from typing import Any

import pytest

from distill_ray.config.length import steps_per_epoch
from distill_ray.config.resolve import CorpusFacts
from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import ClusterError, ConfigError
from distill_ray.runs.shown import shown_settings
from distill_ray.tune.machine import TrialResources, find_machine
from distill_ray.tune.settings import SweepSettings, TrialPlanner, settings_of_search
from distill_ray.tune.trial import make_spec

FACTS = CorpusFacts(file_count=30, train_seconds=100.0, sample_rate=44_100, channels=1)
ONE_AT_A_TIME = TrialResources(concurrent=1, gpus=0.0, workers=1, threads=2)


def planner(
    *, scale: TrialResources = ONE_AT_A_TIME, resumed: bool = False, size: str | None = None, **given: Any
) -> TrialPlanner:
    settings = {key.replace("__", "."): value for key, value in given.items()}
    if size is not None:
        settings["model.size"] = size
    return TrialPlanner(
        SweepSettings.of(settings),
        FACTS,
        scale,
        resumed=resumed,
        said=frozenset(settings),
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = {
        "sweep.codebook_sizes": (8,),
        "sweep.colour": 1,
        "model.num_quantizers": 4,
        "training.lr": 2.0,
        "health.floor": 2.0,
        "nonsense.key": 1,
    }
    with pytest.raises(ConfigError) as caught:
        SweepSettings.of(wrong)
    assert {problem.key for problem in caught.value.problems} == set(wrong)
    with pytest.raises(ConfigError, match=r"sweep\.codebook_sizes\): 8 is below"):
        SweepSettings.of({"sweep.codebook_sizes": (8,)})


def test_a_setting_is_either_searched_or_given() -> None:
    with pytest.raises(ConfigError) as caught:
        SweepSettings.of(
            {
                "sweep.lrs": (1e-3, 2e-3),
                "training.lr": 1e-3,
                "sweep.sizes": ("tiny",),
                "model.size": "small",
                "model.codebook_size": 64,
            }
        )
    assert [str(problem) for problem in caught.value.problems] == [
        "--codebook-sizes (model.codebook_size): a search chooses it; say which ones to try with "
        "--codebook-sizes",
        "--size (model.size): is one of the settings that the search tries; leave it out",
        "--lr (training.lr): is one of the settings that the search tries; leave it out",
    ]


def test_the_health_rule_ends_trials_unless_told_otherwise() -> None:
    assert SweepSettings.of({}).health.stop is True
    assert SweepSettings.of({"health.stop": False, "health.floor": 0.5}).health.stop is False
    resolved = planner().resolve(make_spec("search", 64, (2, 4, 8), {}))
    assert resolved.config.health.stop is True
    assert resolved.source("health.stop") == "auto"
    assert resolved.source("model.codebook_size") == "override"
    assert resolved.source("training.batch_size") == "auto"


def test_equal_epochs_are_equal_steps_for_every_codec() -> None:
    made = planner(sweep__codebook_sizes=(16, 1024), sweep__rvq_levels=(2, 8))
    specs = [make_spec("search", size, (2, depth), {}) for size in (16, 1024) for depth in (4, 8)]
    steps = {steps_per_epoch(made.resolve(spec).config, FACTS.train_seconds) for spec in specs}
    alone = planner(sweep__codebook_sizes=(1024,), sweep__rvq_levels=(8,), sweep__max_kbps=7.0)
    deepest = alone.resolve(specs[-1]).config
    assert steps == {steps_per_epoch(deepest, FACTS.train_seconds)}
    assert len({made.resolve(spec).config.training.epochs for spec in specs}) == 1


def test_a_rate_that_no_codec_can_keep_is_refused_before_anything_trains() -> None:
    """Two levels of 64 codes at 86.13 frames a second are 1.0336 kbit/s, at 21.53 a quarter."""
    planner(sweep__max_kbps=0.26)
    compression = {"model__purpose": "compression"}
    with pytest.raises(ConfigError) as caught:
        planner(sweep__max_kbps=1.0, **compression)
    assert [(problem.key, problem.flag) for problem in caught.value.problems] == [
        ("sweep.max_kbps", "--max-kbps")
    ]
    assert caught.value.problems[0].message == (
        "1 kbit/s is below every codec of the search: raise it to at least 1.04, or add lower --rvq-levels "
        "or smaller --codebook-sizes"
    )
    planner(sweep__max_kbps=1.04, **compression)
    # What cannot change any more has its advice at the end.
    planner(sweep__max_kbps=1.0, resumed=True, **compression)


def test_trials_are_told_their_steps_and_none_takes_more_than_twice_its_share_of_the_minutes() -> None:
    spec = make_spec("search", 64, (2, 4, 8), {})

    def minutes(concurrent: int, resumed: bool = False, **given: Any) -> float | None:
        scale = TrialResources(concurrent=concurrent, gpus=0.0, workers=1, threads=1)
        given = {"sweep__max_minutes": 70.0, "model__purpose": "compression", **given}
        made = planner(scale=scale, resumed=resumed, **given)
        assert made.steps_are_said is not resumed
        assert made.resolve(spec).config.training.max_steps == (None if resumed else 0)
        return made.resolve(spec).config.training.max_minutes

    assert minutes(1) == 2 * 10.0  # five codebook sizes and two finalists
    assert minutes(2) == 2 * 70.0 / 4
    assert minutes(5) == 2 * 35.0
    assert minutes(1, sweep__plan="grid") == 2 * 70.0 / 15
    assert minutes(1, training__max_minutes=3.0) == 3.0
    # What a resumed search recorded stands, however many run at a time now.
    assert minutes(2, resumed=True, training__max_minutes=10.0) == 10.0


def test_what_is_shared_is_recorded_and_what_is_searched_is_not() -> None:
    shared = planner(
        sweep__sizes=("tiny", "small"), sweep__lr_range=(1e-4, 1e-3), sweep__search="random", sweep__trials=4
    ).shared()
    assert {"model.codebook_size", "model.num_quantizers", "model.width", "training.lr"}.isdisjoint(shared)
    assert shared["model.n_fft"] == 2048
    assert shared["health.stop"] is True
    assert isinstance(shared["training.epochs"], int)
    one = planner(sweep__rvq_levels=(4,), size="tiny").shared()
    assert "model.num_quantizers" not in one
    assert one["model.width"] == 128


def test_a_trial_that_is_begun_keeps_its_codec_and_its_rates() -> None:
    """Whatever its size means by now."""
    made = planner(sweep__sizes=("tiny", "small"))
    spec = make_spec("search", 64, (2, 4), {"model.size": "tiny"})
    assert made.resolve(spec).config.model.width == 128
    begun = {"model.width": 64, "model.encoder_blocks": 2, "model.decoder_blocks": 2, "training.lr": 5e-4}
    config = made.resolve(spec, begun).config
    assert (config.model.width, config.model.encoder_blocks, config.model.codebook_size) == (64, 2, 64)
    assert config.training.lr == 5e-4


@pytest.mark.parametrize(
    ("given", "resources", "expected"),
    [
        ({}, {"CPU": 16, "GPU": 8}, (5, 1.0, 3)),  # five codebook sizes
        ({"gpus_per_trial": 0.25}, {"CPU": 16, "GPU": 1}, (4, 0.25, 4)),
        ({"gpus_per_trial": 0.3}, {"CPU": 16, "GPU": 1}, (3, 0.3, 5)),
        ({"gpus_per_trial": 0.1}, {"CPU": 16, "GPU": 1}, (5, 0.1, 3)),
        ({"workers_per_trial": 2}, {"CPU": 16, "GPU": 8}, (4, 2.0, 2)),
        ({"workers_per_trial": 2}, {"CPU": 4}, (2, 0.0, 4)),
        ({}, {"CPU": 2}, (2, 0.0, 8)),
        ({"max_concurrent": 1}, {"CPU": 2}, (1, 0.0, 16)),
        ({"gpus_per_trial": 0.0}, {"CPU": 16, "GPU": 8}, (5, 0.0, 3)),
    ],
)
def test_as_many_trials_run_as_there_is_room_for(
    given: dict[str, Any], resources: dict[str, float], expected: tuple[int, float, int]
) -> None:
    scale = TrialResources.of(SweepConfig(**given), resources, cores=16, where="here")
    assert (scale.concurrent, scale.gpus, scale.threads) == expected


def test_a_trial_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ClusterError, match="a trial needs 2 GPUs and here has 1"):
        TrialResources.of(SweepConfig(gpus_per_trial=2.0), {"CPU": 4, "GPU": 1}, cores=4, where="here")
    with pytest.raises(ClusterError, match="a trial's 4 workers need one CPU each and here has 2"):
        TrialResources.of(SweepConfig(workers_per_trial=4), {"CPU": 2}, cores=2, where="here")


def test_no_more_workers_than_a_machine_can_take_turns_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    sweep = SweepConfig(workers_per_trial=4, max_concurrent=3, gpus_per_trial=0.0)
    message = "12 workers would take turns on this machine's 2 cores: lower --workers-per-trial"
    with pytest.raises(ClusterError, match=message), find_machine(None, sweep):
        raise AssertionError("there is no such machine")


def test_the_summary_shows_what_is_tried_and_what_trials_share() -> None:
    given = {
        "sweep.lr_range": (0.0005, 0.005),
        "sweep.search": "random",
        "sweep.trials": 4,
        "model.size": "tiny",
        "model.purpose": "compression",
    }
    settings = SweepSettings.of({**given, "model.commitment_weight": 0.5})
    made = TrialPlanner(settings, FACTS, ONE_AT_A_TIME, resumed=False, said=frozenset(given))
    shown = shown_settings(
        settings_of_search(settings.sweep, made), lambda key: "override" if key in given else "auto"
    )
    by_name = {item.name: (item.value, item.source) for item in shown}
    assert by_name["lr_range"] == ("0.0005, 0.005", "override")
    assert by_name["trials"] == ("4", "override")
    assert by_name["size"] == ("tiny", "override")
    assert by_name["commitment_weight"] == ("0.5", "auto")
    assert by_name["codebook_sizes"] == ("64, 128, 256, 512, 1024", "auto")
    assert by_name["health.stop"] == ("on", "auto")
    assert "lr" not in by_name  # which the search draws


def test_a_search_shows_one_time_budget() -> None:
    """Until ed010dd there were two called max_minutes: 2.8 of the search and 0.4 of each trial."""
    given = {"sweep.max_minutes": 2.8, "prior_training.max_minutes": 0.5, "model.purpose": "compression"}
    settings = SweepSettings.of(given)
    made = TrialPlanner(settings, FACTS, ONE_AT_A_TIME, resumed=False, said=frozenset())
    rows = shown_settings(settings_of_search(settings.sweep, made), lambda key: "auto")
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    budgets = {row.name: row.value for row in rows if "max_minutes" in row.name}
    assert budgets == {"max_minutes": "2.8"}
