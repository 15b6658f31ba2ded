"""One trial of a search, in the process that Ray Tune gives it (`run_trial`).

With one worker the loop runs right here; with more, this process drives a Ray Train run of its own
(`runtime/ddp.py`). Either way the trial is an ordinary run folder, and the driver of the search hears of it
through the mailbox (`runtime/mailbox.py`); Tune itself gets one report an epoch, for scheduler and
stopper.
"""

from __future__ import annotations

import functools
import gc
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.util import get_current_placement_group

from distill_ray.config.sweep import SweepConfig
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.errors import CancelledError, CheckpointError
from distill_ray.events.records import Event, TrainingCompleteEvent, VQEpochMetrics, to_record
from distill_ray.runs.run_folder import RunFolder
from distill_ray.runs.workspace import result_folder
from distill_ray.runtime.failure import LoopError
from distill_ray.runtime.interrupt import Interrupts
from distill_ray.runtime.launch import train_here
from distill_ray.runtime.mailbox import Outbox, Record, RemoteStop
from distill_ray.runtime.metrics import with_metrics
from distill_ray.runtime.plan import ResolvedPlan
from distill_ray.runtime.ray_session import Session
from distill_ray.runtime.ray_worker import Loop, StepThrottle
from distill_ray.storage.uploaded import newest_checkpoint
from distill_ray.threads import free_threads
from distill_ray.training.worker import Listener, Worker
from distill_ray.tune.ranking import trial_objective
from distill_ray.tune.rating import TrialRater
from distill_ray.tune.settings import TrialListener
from distill_ray.vqvae.health import EpochHealth

BEGUN, FAILED = "begun", "failed"  # records of a trial that are not events, by their key "trial"


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """What one trial does: `loop`, the training of a codec of `config`, in `folder`. `depths`: what it is
    scored at. `compared`: schedulers may end it early.
    """

    trial: str
    config: VQTrainConfig
    depths: tuple[int, ...]
    loop: Loop
    folder: RunFolder
    compared: bool

    @property
    def codebook_size(self) -> int:
        return self.config.model.codebook_size

    @property
    def frame_rate(self) -> float:
        return self.config.model.frame_rate


@dataclass(frozen=True, kw_only=True)
class TrialHome:
    """What all trials of a search share. `name`: the search's; `gpus`: of a whole trial; `threads`: torch's
    in a trial's process; `session_folder`: that of a private Ray; `rater`: of trained codecs, for objective
    generation.
    """

    name: str
    mailbox: Any
    sweep: SweepConfig
    gpus: float
    workers: int
    threads: int
    session_folder: Path | None
    listener: TrialListener | None
    rater: TrialRater | None = None


def run_trial(config: dict[str, Any], *, home: TrialHome) -> None:
    """Tune's training function; `config["task"]` is a TrialTask.

    Raises LoopError for every exception of the loop, after the driver has been told the reason.
    """
    task: TrialTask = config["task"]
    actor = ray.get_runtime_context().current_actor
    if ray.get(home.mailbox.hello.remote(task.trial, actor)):
        return  # the search was stopped while this process started
    torch.set_num_threads(free_threads(home.threads))
    if 0 < home.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(home.gpus)
    outbox = Outbox(home.mailbox, task.trial)
    outbox.post({"trial": BEGUN, "device": _device_name(home)})
    try:
        if home.listener is None:
            _train(task, home, TrialReporter(task, home.sweep, outbox, None), outbox)
        else:
            with home.listener() as listener:
                _train(task, home, TrialReporter(task, home.sweep, outbox, listener), outbox)
    except CancelledError:
        return  # stopped before its first step: there is nothing to keep
    except Exception as error:
        failure = error if isinstance(error, LoopError) else LoopError.of(error)
        outbox.post({"trial": FAILED, "message": failure.message, "trace": failure.trace})
        raise failure from None
    finally:
        outbox.close()
        gc.collect()  # the process may serve the next trial
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _train(task: TrialTask, home: TrialHome, voice: TrialReporter, outbox: Outbox) -> None:
    # On the node of the search's driver, and on shared folders, the driver looks after the trial's files.
    folder = task.folder
    if folder.uri is not None and not folder.path.exists():
        with result_folder(folder.uri, path=folder.path, listener=voice) as results:
            _train_in(task, home, results.attended(voice), outbox)
    else:
        _train_in(task, home, voice, outbox)


def _train_in(task: TrialTask, home: TrialHome, voice: Listener, outbox: Outbox) -> None:
    private = home.session_folder is not None
    voice = with_metrics(voice, private=private, run=f"{home.name}/{task.trial}")
    if home.workers == 1:
        stop = RemoteStop(outbox)
        done = train_here(
            task.loop,
            task.folder.checkpoints,
            task.folder.checkpoints_uri,
            device=None if home.gpus else torch.device("cpu"),
            listener=voice,
            stop=stop,
        )
        if home.rater is None:
            return
        assert isinstance(done, TrainingCompleteEvent), done
        if done.exit_reason in ("completed", "early_stop"):
            judged = home.rater(done, task.folder, task.config, task.depths, listener=voice, stop=stop)
            if judged is not None:
                voice(judged)
        return
    from distill_ray.runtime.ddp import DDPRun

    plan = ResolvedPlan(
        num_workers=home.workers,
        use_gpu=home.gpus > 0,
        gpus_per_worker=home.gpus / home.workers,
        address=None,
        reason="a trial",
    )
    session = Session(
        address=ray.get_runtime_context().gcs_address,
        folder=home.session_folder,
        resources=ray.cluster_resources(),
    )
    run = DDPRun(
        functools.partial(_in_group, loop=task.loop, mailbox=home.mailbox, trial=task.trial),
        run_dir=task.folder.path,
        uri=task.folder.checkpoints_uri,
        plan=plan,
        session=session,
        listener=voice,
        interrupts=_RemoteInterrupts(voice, outbox),
    )
    try:
        run.train()
    except (KeyboardInterrupt, CancelledError):
        return  # stopped before the loop had begun: there is nothing to keep


def _in_group(worker: Worker, *, loop: Loop, mailbox: Any, trial: str) -> Event:
    """The loop on a rank. Should this trial's process be killed, the driver frees what its ranks hold."""
    if worker.rank == 0:
        ray.get(mailbox.hold.remote(trial, get_current_placement_group()))
    return loop(worker)


class TrialReporter:
    """A listener that tells the trial's own logs, the driver, and after each epoch Tune."""

    def __init__(
        self, task: TrialTask, sweep: SweepConfig, outbox: Outbox, listener: Listener | None
    ) -> None:
        self._task = task
        self._sweep = sweep
        self._outbox = outbox
        self._listener = listener
        self._throttle = StepThrottle(0.5)

    def __call__(self, event: Event) -> None:
        if self._listener is not None:
            self._listener(event)
        if self._throttle.passes(event, time.monotonic()):
            self._outbox.post(to_record(event))
        if isinstance(event, VQEpochMetrics):
            tune.report(report_of(event, self._task, self._sweep))


def report_of(event: VQEpochMetrics, task: TrialTask, sweep: SweepConfig) -> Record:
    """What Tune hears of an epoch: the figure to compare trials by, and the health that is judged."""
    objective = trial_objective(event.depth_scores, sweep, task.codebook_size, task.frame_rate)
    return {
        "trial": task.trial,
        "epoch": event.epoch,
        "objective": math.inf if objective is None else objective,
        "val_loss": event.val_loss,
        "measured": event.measured,
        "health": [asdict(level) for level in event.codebook_health],
    }


class _RemoteInterrupts(Interrupts):
    """A `RemoteStop` that a `DDPRun` takes as it takes Ctrl-C."""

    def __init__(self, listener: Listener, outbox: Outbox) -> None:
        super().__init__(listener)
        self._outbox = outbox

    def requested(self) -> bool:
        return self._outbox.stop_requested()

    def steps(self) -> int:
        return self._outbox.steps()


def epochs_before(run: RunFolder) -> list[EpochHealth]:
    """The health of each epoch that the newest checkpoint of a trial holds."""
    from distill_ray.training.checkpoint import guarded, read_json
    from distill_ray.training.vqvae import epoch_health

    folder = newest_checkpoint(run.checkpoints, run.checkpoints_uri)
    if folder is None:
        return []
    path = folder / "run.json"
    try:
        return guarded(path, lambda: epoch_health(read_json(path)["history"]))
    except CheckpointError:
        return []  # the trial itself will say so


def _device_name(home: TrialHome) -> str:
    if not home.gpus:
        return "CPU"
    if home.workers > 1:
        return f"{home.gpus:g} GPUs"
    return "GPU " + ",".join(str(number) for number in ray.get_gpu_ids())
