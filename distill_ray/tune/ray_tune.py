"""Ray Tune's part in a search: `Tuner.fit` in a thread of its own, and what it asks and tells the driver.

Tune would take Ctrl-C for itself on the main thread. Searcher, callback, scheduler and stopper are thin: the
driver (`Attendant`, which `sweep.SweepRun` is) decides. Tune pickles them for `Tuner.restore`, which is not
used, as what they refer to lives in this process only; so their pickles are empty.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import stat
import threading
from pathlib import Path
from typing import Any, Protocol

import pyarrow.fs
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from distill_ray.config.health import HealthConfig
from distill_ray.config.sweep import SweepConfig
from distill_ray.storage.ownership import others_who_write
from distill_ray.tune.run_trial import TrialHome, TrialTask, run_trial
from distill_ray.tune.stopper import HealthStopper
from distill_ray.vqvae.health import Collapse, EpochHealth, HealthRule

_RETRIES = 1
_LONGEST = 10**6  # epochs: budgets end trials, not the scheduler
_REDUCTION = 3  # of the trials that reach an epoch of comparison, one in so many goes on


class Attendant(Protocol):
    """The driver's side; every method may be called from Tune's thread."""

    def take(self) -> TrialTask | None: ...
    def is_over(self) -> bool: ...
    def is_aborted(self) -> bool: ...
    def before(self, trial: str) -> list[EpochHealth]: ...
    def guard(self, trial: str, collapse: Collapse) -> None: ...
    def prune(self, trial: str) -> None: ...
    def completed(self, trial: str) -> None: ...
    def recovered(self, trial: str, error: BaseException | None) -> None: ...
    def errored(self, trial: str, error: BaseException | None) -> None: ...


class TuneThread(threading.Thread):
    """Runs the trials that `attendant` has ready until it is over; `error`: what Tune itself failed with."""

    def __init__(
        self, attendant: Attendant, home: TrialHome, storage: Path, sweep: SweepConfig, health: HealthConfig
    ) -> None:
        super().__init__(name="ray-tune-fit", daemon=True)
        self._attendant = attendant
        self._home = home
        self._storage = storage
        self._sweep = sweep
        self._health = health
        self.error: Exception | None = None

    def run(self) -> None:
        log = logging.getLogger("ray.tune")
        level = log.level
        log.setLevel(logging.CRITICAL)  # it would put the tracebacks of trials on stderr
        try:
            self._tuner().fit()
        except Exception as error:
            self.error = error
        finally:
            log.setLevel(level)

    def _tuner(self) -> tune.Tuner:
        nested = self._home.workers > 1  # then a trial's process only drives its workers
        resources = {"CPU": 0.01} if nested else {"CPU": 1.0, "GPU": self._home.gpus}
        return tune.Tuner(
            tune.with_resources(functools.partial(run_trial, home=self._home), resources),
            tune_config=tune.TuneConfig(
                metric="objective",
                mode="min",
                search_alg=_Ready(self._attendant),
                scheduler=self._scheduler(),
                num_samples=-1,
                reuse_actors=not nested,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._storage),
                storage_filesystem=pyarrow.fs.LocalFileSystem(),  # a path, whatever characters it has
                stop=HealthStopper(
                    HealthRule.of(self._health) if self._health.stop else None,
                    before=self._attendant.before,
                    on_collapse=self._attendant.guard,
                    is_aborted=self._attendant.is_aborted,
                ),
                callbacks=[_Watch(self._attendant), _Silence()],
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                verbose=0,
            ),
        )

    def _scheduler(self) -> TrialScheduler:
        if self._sweep.scheduler == "none":
            return FIFOScheduler()
        return CooperativeAsha(self._attendant, grace_period=self._health.warmup + 1)


class CooperativeAsha(ASHAScheduler):  # type: ignore[misc]
    """ASHA over the epochs of the first round's trials; who lags is asked to stop instead of being ended."""

    def __init__(self, attendant: Attendant, *, grace_period: int) -> None:
        super().__init__(
            time_attr="epoch", grace_period=grace_period, reduction_factor=_REDUCTION, max_t=_LONGEST
        )
        self._attendant = attendant

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        # Trials of later rounds have other depths, and are wanted whatever the first ones reached.
        if not self._compares(trial, result):
            return str(TrialScheduler.CONTINUE)
        if super().on_trial_result(controller, trial, result) == TrialScheduler.STOP:
            self._attendant.prune(result["trial"])
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._compares(trial, result):
            super().on_trial_complete(controller, trial, result)

    def _compares(self, trial: Any, result: dict[str, Any]) -> bool:
        # One that has been completed may start again: Tune retries those whose end it could not deal with.
        known = trial.trial_id in self._trial_info
        return known and "epoch" in result and bool(trial.config["task"].compared)

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Ready(Searcher):  # type: ignore[misc]
    """Hands Tune the trials that are ready."""

    def __init__(self, attendant: Attendant) -> None:
        super().__init__(metric="objective", mode="min")
        self._attendant = attendant

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        task = self._attendant.take()
        if task is not None:
            return {"task": task}
        return str(Searcher.FINISHED) if self._attendant.is_over() else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps(None))

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("searches resume from their own records")

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Silence(TrialProgressCallback):  # type: ignore[misc]
    """Stands where Tune would put its own, which prints to stdout whatever the verbosity is; where that is
    closed, it raises after `_Watch` has told of a trial's end, and Tune runs the trial again.
    """

    def _print(self, msg: str) -> None:
        pass

    def display_result(self, *args: Any) -> None:
        """What it would do in a notebook."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Watch(tune.Callback):  # type: ignore[misc]
    """Tells how the processes of trials ended."""

    def __init__(self, attendant: Attendant) -> None:
        self._attendant = attendant

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._attendant.completed(_name_of(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._attendant.recovered(_name_of(trial), _error_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._attendant.errored(_name_of(trial), _error_of(trial))

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


def _name_of(trial: Any) -> str:
    return str(trial.config["task"].trial)


def _error_of(trial: Any) -> BaseException | None:
    # `Trial.get_pickled_error` would look in the storage, where Tune has not brought the file yet and others
    # may write.
    path = trial.pickled_error_file
    if not path or not _is_only_ours(Path(path)):
        return None
    try:
        error = pickle.loads(Path(path).read_bytes())  # noqa: S301 - only this user could write it
    except Exception:  # made of classes that only the trial's process has
        return None
    return error if isinstance(error, BaseException) else None


def _is_only_ours(path: Path) -> bool:
    """Whether this user has made the file and no other one can write to it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return is_own and others_who_write(status) is None
