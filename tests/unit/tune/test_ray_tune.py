from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from distill_ray.config.health import HealthConfig
from distill_ray.config.sweep import SweepConfig
from distill_ray.runtime.ray_session import TRAIN_ENVIRONMENT

HOME: Any = SimpleNamespace(workers=1, gpus=0.0)


@pytest.fixture(scope="module")
def ray_tune() -> Any:
    """Not imported with this file, since it brings Ray Tune into every process that collects tests."""
    from distill_ray.tune import ray_tune

    return ray_tune


def test_asha_asks_the_lagging_trials_of_the_first_round_to_stop_and_ends_none(ray_tune: Any) -> None:
    from ray.tune.schedulers import TrialScheduler

    asked: list[str] = []
    attendant: Any = SimpleNamespace(prune=asked.append)
    scheduler = ray_tune.CooperativeAsha(attendant, grace_period=2)
    scheduler.set_search_properties("objective", "min")
    trials = {
        name: SimpleNamespace(
            trial_id=name, config={"task": SimpleNamespace(trial=name, compared=name != "final")}
        )
        for name in ("good", "fair", "bad", "late", "final")
    }
    objectives = {"good": 1.0, "fair": 2.0, "bad": 9.0, "late": 8.0, "final": 99.0}
    for name, trial in trials.items():
        scheduler.on_trial_add(None, trial)
        for epoch in (1, 2, 3):
            result = {
                "trial": name,
                "epoch": epoch,
                "objective": objectives[name],
                "training_iteration": epoch,
            }
            assert scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
            if epoch == 1:
                assert name not in asked  # nothing is compared before the grace period is over
        scheduler.on_trial_complete(None, trial, {"done": True})
    assert asked == ["fair", "bad", "late"]


class Bomb:
    """Its pickle is code."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.flag),)


@pytest.fixture
def error_of(ray_tune: Any) -> Callable[[Path], BaseException | None]:
    def error(path: Path) -> BaseException | None:
        found: BaseException | None = ray_tune._error_of(SimpleNamespace(pickled_error_file=str(path)))
        return found

    return error


@pytest.mark.parametrize("how", ["everybody", "link", "another user", "missing"])
def test_an_error_that_others_could_have_written_is_not_unpickled(
    error_of: Callable[[Path], BaseException | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    path, flag = tmp_path / "error.pkl", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Bomb(flag)))
    if how == "everybody":
        path.chmod(0o666)
    elif how == "link":
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "error.pkl")
    elif how == "another user":
        monkeypatch.setattr("distill_ray.tune.ray_tune.os.geteuid", lambda: os.getuid() + 1)
    else:
        path = tmp_path / "missing"
    assert error_of(path) is None
    assert not flag.exists()


def test_the_error_that_tune_has_written_is_read(
    error_of: Callable[[Path], BaseException | None], tmp_path: Path
) -> None:
    path = tmp_path / "error.pkl"
    path.write_bytes(pickle.dumps(ValueError("no")))
    assert repr(error_of(path)) == repr(ValueError("no"))
    path.write_bytes(pickle.dumps("no exception"))
    assert error_of(path) is None


def test_tune_keeps_nothing_that_a_resumed_search_would_unpickle(ray_tune: Any, tmp_path: Path) -> None:
    attendant: Any = SimpleNamespace()
    searcher = ray_tune._Ready(attendant)
    searcher.save(str(tmp_path / "searcher.pkl"))
    assert pickle.loads((tmp_path / "searcher.pkl").read_bytes()) is None
    for each in (
        searcher,
        ray_tune._Watch(attendant),
        ray_tune._Silence(),
        ray_tune.CooperativeAsha(attendant, grace_period=1),
    ):
        assert type(pickle.loads(pickle.dumps(each))) is object
    with pytest.raises(AssertionError, match="searches resume from their own records"):
        searcher.restore(str(tmp_path / "searcher.pkl"))


@pytest.mark.parametrize("result", [{}, {"objective": 1.0, "done": True}], ids=["no epoch", "done"])
def test_tune_prints_nothing_of_trials(
    ray_tune: Any,
    result: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ray.tune.experimental.output import get_air_verbosity
    from ray.tune.utils.callback import _create_default_callbacks

    for name, value in TRAIN_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    fit = ray_tune.TuneThread(Mock(), HOME, Path("/nowhere"), SweepConfig(), HealthConfig())
    config = fit._tuner()._local_tuner._run_config
    told = _create_default_callbacks(config.callbacks, air_verbosity=get_air_verbosity(config.verbose))
    trial: Any = Mock(
        config={"task": SimpleNamespace(trial="k32-q4")}, last_result=result, pickled_error_file=None
    )
    for callback in told:
        callback.on_trial_result(1, [trial], trial, result)
        callback.on_trial_complete(1, [trial], trial)
        callback.on_trial_error(1, [trial], trial)
    assert capsys.readouterr() == ("", "")
    assert [type(callback).__name__ for callback in told] == ["_Watch", "_Silence"]
