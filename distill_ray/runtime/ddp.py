"""A training loop as DDP ranks of Ray Train, attended by the driver (events, Ctrl-C, lost workers).

Ray's own restarts are off: it would repeat a loop that failed for a reason of its own. Here only a run that
lost a process starts again, from its newest checkpoint. Where the number of ranks may vary (`min_workers`),
it starts with as many as the nodes that are left allow, and Ray adds ranks, also from the newest checkpoint,
when nodes come back.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError
from ray.train.torch import TorchTrainer
from ray.util import placement_group_table, remove_placement_group

from distill_ray.errors import CheckpointError
from distill_ray.events.records import Event, Notice, from_record
from distill_ray.runtime.cluster_group import ClusterGroup
from distill_ray.runtime.failure import LoopError, by_rank, to_distill_error
from distill_ray.runtime.interrupt import Interrupts
from distill_ray.runtime.mailbox import RANK_0, open_mailbox
from distill_ray.runtime.plan import ResolvedPlan
from distill_ray.runtime.ray_internals import wait_until_gone
from distill_ray.runtime.ray_session import Session
from distill_ray.runtime.ray_worker import Loop, RankTask, run_rank
from distill_ray.runtime.rendezvous import LoopbackGroup
from distill_ray.runtime.train_internals import FAILURES, DataParallelTrainer, PrivateTrainer, RayTrainError
from distill_ray.storage.checkpoints import GIVE_SHARED, empty_ray_storage, ray_storage, remove_ray_storage
from distill_ray.storage.uploaded import open_checkpoints, settle
from distill_ray.training.worker import Listener

_POLL_S = 0.1
_RESTARTS = 2  # without a new checkpoint in between
_RESIZE_CHECK_S = 15.0
_ABORT_PATIENCE_S = 5.0
_RESTARTING = "a worker process was lost; the training starts again from its newest checkpoint"


class DDPRun:
    """One run of a loop on the ranks of `plan`, which must have passed `check_resources`."""

    def __init__(
        self,
        loop: Loop,
        *,
        run_dir: Path,
        uri: str | None = None,
        plan: ResolvedPlan,
        session: Session,
        listener: Listener,
        interrupts: Interrupts,
    ) -> None:
        self._loop = loop
        self._run_dir = run_dir
        self._checkpoints = run_dir / "checkpoints"
        self._uri = uri
        self._plan = plan
        self._session = session
        self._listener = listener
        self._interrupts = interrupts

    def train(self) -> Event:
        """The loop's last event.

        Raises the loop's own DistillError; TrainingError for anything else; KeyboardInterrupt after an abort.
        """
        restarts_left, reached = _RESTARTS, _moment(settle(self._checkpoints, self._uri))
        empty_ray_storage(self._checkpoints)
        self._checkpoints.mkdir(parents=True, exist_ok=True)  # by which a rank knows whether it sees the run
        while True:
            self._say_if_waiting()
            with open_mailbox() as mailbox:
                fit = _Fit(self._trainer(mailbox))
                try:
                    self._attend(fit, mailbox)
                    error = fit.error
                except RayError as lost:
                    fit.abort()
                    error = lost
                except BaseException:
                    fit.abort()
                    raise
                finally:
                    _free(mailbox)
                    remove_ray_storage(self._checkpoints)
            if error is None:
                return self._final(fit.record)
            newest = _moment(settle(self._checkpoints, self._uri))
            restarts_left = _RESTARTS if newest != reached else restarts_left - 1
            reached = newest
            if restarts_left < 0 or not lost_a_process(error) or self._interrupts.requested():
                raise to_distill_error(error, self._run_dir / "error.log") from error
            self._listener(Notice(level="warning", message=_RESTARTING))

    def _final(self, record: dict[str, Any]) -> Event:
        """The loop's last event. Raises CheckpointError where this machine lacks the checkpoint behind it."""
        checkpoints = open_checkpoints(self._checkpoints, self._uri)
        if checkpoints.newest_name() != record["checkpoint"]:
            checkpoints.settle()
        checkpoints.close()
        if checkpoints.newest_name() != record["checkpoint"]:
            raise CheckpointError(
                f"the last checkpoint was written by the node {record['host']}, and this one does not see it "
                f"in {self._checkpoints}; {GIVE_SHARED}"
            )
        return from_record(record["event"])

    def _attend(self, fit: _Fit, mailbox: Any) -> None:
        """Deliver events until the run ends; pass the first Ctrl-C on, and let the second abort."""
        stop_passed_on, steps = False, 0
        with self._interrupts.abortable():
            fit.start()
            while fit.is_alive():
                fit.join(_POLL_S)
                fit.rank0 = self._deliver(mailbox)
                if self._interrupts.steps() != steps:
                    steps = self._interrupts.steps()
                    mailbox.say_steps.remote(steps)
                if self._interrupts.requested() and not stop_passed_on:
                    if fit.rank0 is None:
                        raise KeyboardInterrupt  # the loop has not begun: there is nothing to keep
                    mailbox.request_stop.remote()
                    stop_passed_on = True
        self._deliver(mailbox)

    def _deliver(self, mailbox: Any) -> Any:
        """Pass the waiting events to the listener; returns the handle of rank 0's actor once it is known."""
        records, actors = ray.get([mailbox.collect.remote(), mailbox.actors.remote()])
        for _, record in records:
            self._listener(from_record(record))
        return actors.get(RANK_0)

    def _trainer(self, mailbox: Any) -> DataParallelTrainer:
        plan, folder = self._plan, self._session.folder
        task = RankTask(
            loop=self._loop,
            checkpoints=self._checkpoints,
            uri=self._uri,
            mailbox=mailbox,
            threads=torch.get_num_threads() if folder else None,
            gpu_share=plan.gpus_per_worker,
        )
        resources = {"CPU": 1.0, **({"GPU": plan.gpus_per_worker} if plan.use_gpu else {})}
        assert plan.num_workers is not None
        scaling = ray.train.ScalingConfig(
            num_workers=(plan.min_workers, plan.num_workers) if plan.min_workers else plan.num_workers,
            use_gpu=plan.use_gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=_RESIZE_CHECK_S,
        )
        run = ray.train.RunConfig(
            name=self._run_dir.name,  # as dashboards list it
            storage_path=str(ray_storage(self._checkpoints)),
            storage_filesystem=pyarrow.fs.LocalFileSystem(),  # a path, whatever characters it has
            failure_config=FAILURES,
        )
        backend = "nccl" if plan.use_gpu else "gloo"
        if folder is None:
            return TorchTrainer(
                functools.partial(run_rank, task),
                torch_config=ClusterGroup(backend=backend),
                scaling_config=scaling,
                run_config=run,
            )
        return PrivateTrainer(
            functools.partial(run_rank, task),
            backend_config=LoopbackGroup(backend=backend, folder=str(folder)),
            scaling_config=scaling,
            run_config=run,
        )

    def _say_if_waiting(self) -> None:
        needed = {"CPU": float(self._plan.fewest_workers)}
        needed["GPU"] = needed["CPU"] * self._plan.gpus_per_worker
        for has, why in (
            (ray.cluster_resources(), "nodes that are away to come back with"),
            (ray.available_resources(), "others to be done with"),
        ):
            short = [f"{name}s" for name, amount in needed.items() if amount > has.get(name, 0.0)]
            if short:
                message = f"waiting for {why} {' and '.join(short)} of the cluster"
                self._listener(Notice(level="info", message=message))
                return


class _Fit(threading.Thread):
    """`trainer.fit()` beside the main thread, where it would take Ctrl-C for itself."""

    def __init__(self, trainer: DataParallelTrainer) -> None:
        super().__init__(name="ray-train-fit", daemon=True)
        self._trainer = trainer
        self.record: dict[str, Any] = {}
        self.error: Exception | None = None
        self.rank0: Any = None

    def run(self) -> None:
        try:
            self.record = self._trainer.fit().return_value
        except Exception as error:
            self.error = error

    def abort(self) -> None:
        """End the run: the controller takes the group down once it has lost rank 0."""
        if self.rank0 is not None:
            with contextlib.suppress(RayError):
                ray.kill(self.rank0)
        if self.is_alive():
            self.join(_ABORT_PATIENCE_S)


def _free(mailbox: Any) -> None:
    """End ranks whose controller was killed and free their resources: nobody else does before the job ends.

    Returns once rank 0 is gone, which writes checkpoints.
    """
    with contextlib.suppress(RayError):
        groups, actors = ray.get([mailbox.release.remote(RANK_0), mailbox.actors.remote()])
        if remove_groups(groups):
            rank0 = actors[RANK_0]
            ray.kill(rank0)
            wait_until_gone(rank0, _ABORT_PATIENCE_S)


def remove_groups(groups: Iterable[Any]) -> int:
    """Give back what placement groups hold that are still there; how many those were."""
    held = [group for group in groups if placement_group_table(group).get("state") not in (None, "REMOVED")]
    for group in held:
        remove_placement_group(group)
    return len(held)


def _moment(checkpoint: Path | None) -> object:
    """Tells one checkpoint from the next."""
    return checkpoint and checkpoint.stat().st_mtime_ns


def lost_a_process(error: Exception) -> bool:
    """Whether `fit` failed because a process of the run ended, and not for a reason of the loop's own."""
    ranks = by_rank(error)
    loops = [failure for failure in ranks if isinstance(failure, LoopError)]
    if loops:
        return all(failure.lost_peer for failure in loops)
    return any(isinstance(failure, RayActorError | RayTrainError) for failure in ranks)
