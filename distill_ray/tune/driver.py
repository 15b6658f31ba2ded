"""The trials of a search on Ray Tune, attended by the driver: rounds, leaderboard, Ctrl-C, crashes.

One `Tuner` serves all rounds. The driver's thread decides (`Rounds`), keeps the books (`Ledger`) and hears
the trials through the mailbox, which also carries the request to stop. Tune has a thread of its own
(`ray_tune.py`), which takes the trials that are ready and says how their processes ended. Tune ends no
trial by itself, but for the stopper: one that shall end early, for Ctrl-C or the scheduler, stops after its
step and keeps a checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import queue
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from distill_ray.config.health import HealthConfig
from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import ClusterError
from distill_ray.events.records import Event, Notice
from distill_ray.runtime.ddp import remove_groups
from distill_ray.runtime.failure import meaning, to_distill_error
from distill_ray.runtime.interrupt import Interrupts
from distill_ray.runtime.mailbox import Record, open_mailbox
from distill_ray.storage.atomic import replacing
from distill_ray.storage.checkpoints import empty_ray_storage, remove_ray_storage
from distill_ray.tune.ledger import Ledger
from distill_ray.tune.ray_tune import TuneThread
from distill_ray.tune.rounds import Rounds
from distill_ray.tune.run_trial import BEGUN, FAILED, TrialHome, TrialTask, epochs_before
from distill_ray.tune.step_budget import Settled, StepBudget
from distill_ray.tune.trial import TrialSpec
from distill_ray.uri import redacted
from distill_ray.vqvae.health import Collapse, EpochHealth

_POLL_S = 0.1
_ABORT_PATIENCE_S = 10.0
_NO_FINALS = (
    "the time is up: no finalist is trained at its own depth, and the best of the trials is chosen as it was "
    "trained; more --max-minutes give finalists their time"
)


class SweepRun:
    """One go at a search: runs what the ledger has not finished until no round is left.

    `task` makes ready what a trial does (and its folder); `concurrent` trials run at a time. `steps` says how
    many each makes where time is short; `settle` hears once what it has settled on, `tell` is the search's
    listener.
    """

    def __init__(
        self,
        *,
        storage: Path,
        sweep: SweepConfig,
        health: HealthConfig,
        rounds: Rounds,
        ledger: Ledger,
        task: Callable[[TrialSpec], TrialTask],
        concurrent: int,
        interrupts: Interrupts,
        steps: StepBudget | None = None,
        settle: Callable[[Settled], None] = lambda settled: None,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._storage = storage
        self._sweep = sweep
        self._health = health
        self._rounds = rounds
        self._ledger = ledger
        self._task = task
        self._concurrent = concurrent
        self._interrupts = interrupts
        self._steps = steps
        self._settle = settle
        self._tell = tell
        self._ended_trials = 0
        self._live: dict[str, TrialTask] = {}
        self._before: dict[str, list[EpochHealth]] = {}
        self._mailbox: Any = None
        # Between the driver's thread and Tune's.
        self._ready: deque[TrialTask] = deque()
        self._over = False
        self._aborted = False
        self._ends: queue.SimpleQueue[tuple[str, Callable[[], None]]] = queue.SimpleQueue()

    def run(self, home: Callable[[Any], TrialHome]) -> None:
        """Run all trials; `home` makes what they share, given the mailbox.

        Raises TrainingError where the search itself (and not a trial) failed, ClusterError where Ray was
        lost, KeyboardInterrupt after an abort.
        """
        empty_ray_storage(self._storage.parent)
        with open_mailbox() as mailbox:
            self._mailbox = mailbox
            fit = TuneThread(self, home(mailbox), self._storage, self._sweep, self._health)
            try:
                self._attend(fit)
            except RayError as error:
                self._abort(fit)
                raise ClusterError(f"the Ray that the search ran on was lost ({meaning(error)})") from error
            except BaseException:
                self._abort(fit)
                raise
            finally:
                remove_ray_storage(self._storage.parent)
        if fit.error is not None:
            raise to_distill_error(fit.error, self._storage.with_name("error.log")) from fit.error

    # The driver's thread

    def _attend(self, fit: TuneThread) -> None:
        self._refill()
        if self._interrupts.requested():
            self._stop()
        if self._over and not self._live:
            return
        stop_passed_on = False
        if self._steps is not None:
            self._steps.begin()
            if self._steps.settled is not None:
                self._ledger.say_trials(self._steps.settled.trials)
        with self._interrupts.abortable():
            fit.start()
            while fit.is_alive():
                fit.join(_POLL_S)
                self._catch_up()
                self._say_steps()
                if self._interrupts.requested() and not stop_passed_on:
                    stop_passed_on = True
                    self._stop()
                self._refill()
        self._catch_up()

    def _say_steps(self) -> None:
        """Tell the trials how many steps they make, as far as that has changed."""
        if self._steps is None:
            return
        open_yet = self._steps.settled is None
        news = self._steps.news(self._live, ended=self._ended_trials)
        if news is not None:
            self._mailbox.say_steps.remote(news.steps)
            self._ledger.say_steps(news.steps)
        if open_yet and self._steps.settled is not None:
            self._rounds.take_only(self._steps.settled.trials)
            self._ledger.say_trials(self._steps.settled.trials)
            self._settle(self._steps.settled)

    def _catch_up(self) -> None:
        """What trials said, and then which of them ended: a trial's end comes after its last word."""
        ends = []
        with contextlib.suppress(queue.Empty):
            while True:
                ends.append(self._ends.get_nowait())
        for trial, record in ray.get(self._mailbox.collect.remote()):
            if trial in self._live:  # else one that was ended at once, and speaks on for a moment
                self._hear(trial, record)
        for trial, end in ends:
            if trial in self._live:  # else Tune tries one again whose end it could not deal with
                end()
            else:
                self._free(trial)

    def _hear(self, trial: str, record: Record) -> None:
        if record.get("trial") == BEGUN:
            self._ledger.begun(trial, record["device"])
        elif record.get("trial") == FAILED:
            self._ledger.failed(trial, record["message"])
            log = self._live[trial].folder.path / "error.log"
            with contextlib.suppress(OSError), replacing(log) as file:
                file.write(redacted(record["trace"]).encode("utf-8", "backslashreplace"))
        else:
            self._ledger.take_event(trial, record)
            if self._steps is not None:
                self._steps.hear(trial, record)

    def _refill(self) -> None:
        """Make trials ready as long as there is room and the round has some."""
        while not self._over and len(self._live) < self._concurrent:
            spec = self._rounds.next(self._ledger.finished(), self._live)
            if spec is not None and spec.round == "final" and self._is_too_late():
                self._rounds.leave_out_finals()
                self._tell(Notice(level="warning", message=_NO_FINALS))
                spec = None
            if spec is None:
                self._over = not self._live
                return
            task = self._task(spec)
            self._before[spec.id] = epochs_before(task.folder)
            self._ledger.add(spec, frame_rate=task.frame_rate)
            self._live[spec.id] = task
            self._ready.append(task)

    def _is_too_late(self) -> bool:
        """Whether finalists, which take about as long as the trials before them, are not done in time, and
        there is one to choose without them.
        """
        if self._steps is None or not self._ledger.has_winner():
            return False
        return not self._steps.has_time_for(max(record.elapsed_s for record in self._ledger.finished()))

    def _stop(self) -> None:
        """No more trials, and those that run stop after their step."""
        self._over = True
        self._mailbox.request_stop.remote()
        with contextlib.suppress(IndexError):
            while True:
                self._ended(self._ready.pop().trial)

    def _ended(self, trial: str) -> None:
        self._free(trial)
        self._ledger.ended(trial, epochs_before(self._live[trial].folder))
        self._leave(trial)

    def _retrying(self, trial: str, reason: str) -> None:
        self._free(trial)
        self._ledger.retrying(trial, reason)

    def _errored(self, trial: str, reason: str) -> None:
        self._free(trial)
        self._ledger.errored(trial, reason)
        self._leave(trial)

    def _leave(self, trial: str) -> None:
        del self._live[trial]
        self._ended_trials += 1
        self._rounds.ended(next(record for record in self._ledger.records() if record.spec.id == trial))

    def _free(self, trial: str) -> None:
        """Give back what the workers of a trial hold: after its process was killed, nobody else would before
        the job ends."""
        remove_groups(ray.get(self._mailbox.release.remote(trial)))

    def _abort(self, fit: TuneThread) -> None:
        """Have Tune end, and kill what still runs."""
        self._over = self._aborted = True
        with contextlib.suppress(RayError):
            for actor in ray.get(self._mailbox.actors.remote()).values():
                ray.kill(actor)
            for trial in self._live:
                self._free(trial)
        if fit.is_alive():
            fit.join(_ABORT_PATIENCE_S)

    # For Tune's thread

    def take(self) -> TrialTask | None:
        """The next trial to start, None while there is none."""
        with contextlib.suppress(IndexError):
            return self._ready.popleft()
        return None

    def is_over(self) -> bool:
        """Whether no trial will be ready any more."""
        return self._over and not self._ready

    def is_aborted(self) -> bool:
        """Whether everything shall end at once."""
        return self._aborted

    def before(self, trial: str) -> list[EpochHealth]:
        """The health of the epochs that the trial's checkpoint had when it was made ready."""
        return self._before[trial]

    def guard(self, trial: str, collapse: Collapse) -> None:
        """The outer guard of the health rule ends `trial`."""
        self._ends.put((trial, functools.partial(self._ledger.guarded, trial, collapse)))

    def prune(self, trial: str) -> None:
        """The scheduler would end `trial`."""
        self._ends.put((trial, functools.partial(self._ledger.pruned, trial)))
        self._mailbox.request_stop.remote(trial)

    def completed(self, trial: str) -> None:
        """Its process is done with it."""
        self._ends.put((trial, functools.partial(self._ended, trial)))

    def recovered(self, trial: str, error: BaseException | None) -> None:
        """It failed and starts again."""
        self._ends.put((trial, functools.partial(self._retrying, trial, _words(error))))

    def errored(self, trial: str, error: BaseException | None) -> None:
        """It failed for good."""
        self._ends.put((trial, functools.partial(self._errored, trial, _words(error))))


def _words(error: BaseException | None) -> str:
    return "its process ended" if error is None else meaning(error)
