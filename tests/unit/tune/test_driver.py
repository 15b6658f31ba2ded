"""The driver of a search over simulated trials, interrupted at every moment; no Ray, no processes."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill_ray.config.health import HealthConfig
from distill_ray.config.sweep import SweepConfig
from distill_ray.events.records import DepthScore, Notice, TrainingCompleteEvent, VQEpochMetrics, to_record
from distill_ray.runs.run_folder import RunFolder
from distill_ray.runtime.interrupt import Interrupts
from distill_ray.tune.ledger import Ledger
from distill_ray.tune.rounds import Rounds
from distill_ray.tune.step_budget import Settled, StepBudget
from distill_ray.tune.trial import TrialRecord, TrialSpec
from distill_ray.vqvae.health import EpochHealth, HealthRule, LevelHealth

SWEEP = SweepConfig(codebook_sizes=(16, 32), rvq_levels=(2, 4), max_kbps=0.7)  # 2 levels within, 4 not
EPOCHS = 2
GOOD = LevelHealth(utilization=1.0, perplexity=16.0, dead_codes=0, entropy=1.0)
WHOLE = {
    "k16-q4": "completed",
    "k32-q4": "completed",
    "final-k16-q2": "completed",
    "final-k32-q2": "completed",
}


class World:
    """What outlives a driver: records and checkpoints on disk. `moments` happen one after the other; at
    each of them `at` may do something. Trials in `again` are run once more after their end, as Tune does
    where a callback raises.
    """

    def __init__(
        self,
        at: Callable[[int, Interrupts], None],
        again: tuple[str, ...] = (),
        steps: StepBudget | None = None,
    ) -> None:
        self.steps = steps
        self.records: dict[str, TrialRecord] = {}
        self.epochs: dict[str, int] = {}
        self.moments = 0
        self.told: list[object] = []
        self.at = at
        self.again = list(again)

    def go(self) -> dict[str, str]:
        """One driver's go at the search; the states that it leaves."""
        said: list[object] = []
        interrupts = Interrupts(said.append)

        def moment(*what: object) -> None:
            self.moments += 1
            self.at(self.moments, interrupts)

        def save(record: TrialRecord) -> None:
            moment()
            self.records[record.spec.id] = record

        ledger = Ledger(
            self.records.values(), SWEEP, HealthRule.of(HealthConfig()), gpus=0.0, save=save, tell=moment
        )
        rounds = Rounds(
            SWEEP, HealthRule.of(HealthConfig()), seed=0, records=ledger.records(), objective=ledger.objective
        )
        from distill_ray.tune.driver import SweepRun

        run = SweepRun(
            storage=Path("/nowhere/storage"),
            sweep=SWEEP,
            health=HealthConfig(),
            rounds=rounds,
            ledger=ledger,
            task=task_of,
            concurrent=2,
            interrupts=interrupts,
            steps=self.steps,
            tell=self.told.append,
        )
        run.run(lambda mailbox: SimpleNamespace(world=self, mailbox=mailbox, moment=moment))
        return {record.spec.id: record.state for record in ledger.records()}


def task_of(spec: TrialSpec) -> Any:
    folder = RunFolder(path=Path("/nowhere") / spec.id)
    return SimpleNamespace(trial=spec.id, spec=spec, folder=folder, frame_rate=62.5)


class Post:
    """A `Mailbox` whose methods are called as those of an actor."""

    def __init__(self) -> None:
        from distill_ray.runtime.mailbox import Mailbox

        self._mailbox = Mailbox()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._mailbox, name))


class SimulatedTune:
    """`TuneThread` whose trials come a step further whenever the driver waits for it."""

    def __init__(self, attendant: Any, home: Any, *_: object) -> None:
        self.attendant, self.home = attendant, home
        self.running: dict[str, Iterator[None]] = {}
        self.error = None
        self.ended = False

    def start(self) -> None:
        self.home.moment()

    def is_alive(self) -> bool:
        return not self.ended

    def join(self, timeout: float) -> None:
        self.home.moment()
        while (task := self.attendant.take()) is not None:
            self.running[task.trial] = self.trial(task)
        for name, trial in list(self.running.items()):
            if next(trial, "over") == "over":
                del self.running[name]
        self.ended = self.attendant.is_aborted() or (self.attendant.is_over() and not self.running)

    def trial(self, task: Any) -> Iterator[None]:
        for _ in self.attempt(task):
            yield
        self.attendant.completed(task.trial)
        if task.trial in self.home.world.again:
            self.home.world.again.remove(task.trial)
            yield
            self.attendant.recovered(task.trial, BrokenPipeError())
            yield
            for _ in self.attempt(task):
                yield
            self.attendant.completed(task.trial)

    def attempt(self, task: Any) -> Iterator[None]:
        from distill_ray.tune.run_trial import BEGUN

        post, epochs = self.home.mailbox, self.home.world.epochs
        if post.hello.remote(task.trial, "actor"):
            return
        stop, _ = post.post.remote(task.trial, [{"trial": BEGUN, "device": "CPU"}])
        while not stop and epochs.get(task.trial, 0) < EPOCHS:
            yield
            epochs[task.trial] = epochs.get(task.trial, 0) + 1
            stop, _ = post.post.remote(task.trial, [to_record(epoch_of(task.spec, epochs[task.trial]))])
        yield
        reason = "completed" if epochs.get(task.trial, 0) == EPOCHS else "cancelled"
        post.post.remote(task.trial, [to_record(end_of(task.spec, epochs.get(task.trial, 0), reason))])


def scores(spec: TrialSpec, epoch: int) -> tuple[DepthScore, ...]:
    return tuple(
        DepthScore(levels=depth, val_loss=9.0 - epoch - depth - spec.codebook_size / 64, mel=1.0)
        for depth in spec.depths
    )


def epoch_of(spec: TrialSpec, epoch: int) -> VQEpochMetrics:
    return VQEpochMetrics(
        epoch=epoch,
        epochs=EPOCHS,
        step=epoch * 5,
        train_loss=1.0,
        val_loss=scores(spec, epoch)[-1].val_loss,
        best_val_loss=0.0,
        best_epoch=epoch,
        losses={},
        val_losses={},
        codebook_health=(GOOD,) * spec.rvq_levels,
        utilization_warnings=(),
        reseeded_codes=0,
        skipped_steps=0,
        audio_seconds_per_second=1.0,
        elapsed_s=1.0,
        depth_scores=scores(spec, epoch),
    )


def end_of(spec: TrialSpec, epoch: int, reason: str) -> TrainingCompleteEvent:
    return TrainingCompleteEvent(
        epochs_completed=epoch,
        steps=epoch * 5,
        final_train_loss=1.0,
        final_val_loss=1.0,
        best_val_loss=1.0,
        best_epoch=epoch,
        codebook_health=(),
        warnings=(),
        audio_seconds_per_second=1.0,
        elapsed_s=1.0,
        exit_reason=reason,
        depth_scores=scores(spec, epoch),
    )


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill_ray.tune import driver

    monkeypatch.setattr(driver, "ray", SimpleNamespace(get=lambda answer: answer, kill=lambda actor: None))
    monkeypatch.setattr(driver, "TuneThread", SimulatedTune)
    monkeypatch.setattr(driver, "open_mailbox", lambda: contextlib.nullcontext(Post()))
    for name in ("remove_groups", "empty_ray_storage", "remove_ray_storage"):
        monkeypatch.setattr(driver, name, lambda *_: None)


def checkpoints(monkeypatch: pytest.MonkeyPatch, world: World) -> World:
    def epochs_before(folder: RunFolder) -> list[EpochHealth]:
        return [EpochHealth(levels=(GOOD,) * 4)] * world.epochs.get(folder.path.name, 0)

    monkeypatch.setattr("distill_ray.tune.driver.epochs_before", epochs_before)
    return world


def press_once(moment: int, interrupts: Interrupts) -> None:
    interrupts._handle(signal.SIGINT, None)


def press_twice(moment: int, interrupts: Interrupts) -> None:
    press_once(moment, interrupts)
    press_once(moment, interrupts)


def break_the_pipe(moment: int, interrupts: Interrupts) -> None:
    raise BrokenPipeError


@pytest.mark.parametrize(
    ("what", "raised"),
    [(press_once, ()), (press_twice, KeyboardInterrupt), (break_the_pipe, BrokenPipeError)],
    ids=["Ctrl-C", "Ctrl-C twice", "listener raises"],
)
def test_a_search_that_is_cut_at_any_moment_ends_in_order_and_goes_on_to_the_same_end(
    monkeypatch: pytest.MonkeyPatch, what: Any, raised: Any
) -> None:
    again = ("k32-q4",)
    uncut = checkpoints(monkeypatch, World(lambda moment, interrupts: None, again))
    assert uncut.go() == WHOLE
    assert uncut.moments > 40
    for cut in range(1, uncut.moments + 1):

        def at(moment: int, interrupts: Interrupts, cut: int = cut) -> None:
            if moment == cut:
                what(moment, interrupts)

        world = checkpoints(monkeypatch, World(at, again))
        with contextlib.suppress(*([raised] if raised else [])):
            left = world.go()
            assert set(left.values()) <= {"completed", "cancelled"}, (cut, left)
        assert world.moments >= cut
        assert world.go() == WHOLE, cut
        assert set(world.epochs.values()) == {EPOCHS}


@pytest.mark.parametrize(("max_kbps", "ends_at"), [(2.0, 0.0), (2.0, math.inf), (0.7, 0.0)])
def test_finalists_are_left_out_where_the_time_is_up_and_another_can_win(
    monkeypatch: pytest.MonkeyPatch, max_kbps: float, ends_at: float
) -> None:
    """2 levels are better than 4 here, so that finalists are trained at 2; 4 levels are over 0.7 kbit/s."""
    from distill_ray.tune import driver

    sweep = replace(SWEEP, max_kbps=max_kbps)
    monkeypatch.setattr(sys.modules[__name__], "SWEEP", sweep)
    monkeypatch.setattr(sys.modules[__name__], "scores", shallow_scores)
    steps = StepBudget(
        sweep=sweep, concurrent=2, ends_at=ends_at, settled=Settled(steps=10, trials=2), clock=lambda: 1.0
    )
    world = checkpoints(monkeypatch, World(lambda moment, interrupts: None, steps=steps))
    late = (max_kbps, ends_at) == (2.0, 0.0)
    assert world.go() == {name: end for name, end in WHOLE.items() if not (late and name.startswith("final"))}
    assert world.told == ([Notice(level="warning", message=driver._NO_FINALS)] if late else [])


def shallow_scores(spec: TrialSpec, epoch: int) -> tuple[DepthScore, ...]:
    return tuple(DepthScore(levels=depth, val_loss=9.0 + depth, mel=1.0) for depth in spec.depths)
