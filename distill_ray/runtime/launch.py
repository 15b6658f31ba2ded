"""Run a training loop: in this process, or as DDP ranks of Ray Train. The loop cannot tell the difference.

`launch` is the only way in. The loops come from `training/`, the plan from `plan.py`; in both cases events
reach `listener` in the calling thread and the newest checkpoint is at `RUN/checkpoints/latest`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from distill_ray.errors import CancelledError, DistillError
from distill_ray.events.records import Event, Notice
from distill_ray.runtime.failure import LoopError, to_distill_error
from distill_ray.runtime.interrupt import Interrupts
from distill_ray.runtime.metrics import with_metrics
from distill_ray.runtime.plan import ResolvedPlan, WorkerPlan, check_resources, resolve_plan
from distill_ray.runtime.ray_session import ray_session
from distill_ray.storage.checkpoints import model_folder, remove_ray_storage
from distill_ray.storage.uploaded import open_checkpoints, settle
from distill_ray.threads import fit_threads
from distill_ray.training.worker import Listener, LocalWorker, StopFlag, Worker


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What a loop returned, the folder with its newest checkpoint or weights, and the plan that was carried
    out.
    """

    final: Event
    checkpoint: Path | None
    plan: ResolvedPlan


def launch(
    loop: Callable[[Worker], Event],
    *,
    run_dir: Path,
    plan: WorkerPlan,
    listener: Listener,
    checkpoints_uri: str | None = None,
) -> LaunchResult:
    """Run `loop` on every rank and return what it returned on rank 0.

    A run whose `run_dir` holds a checkpoint goes on from it, whichever way it was made. With
    `checkpoints_uri` checkpoints are kept there too, and an outage of it does not end the run; who calls
    makes sure in the end that the last one is there (`runs/workspace.py`). `loop` must be picklable
    (cloudpickle) for Ray. SIGINT, SIGTERM and SIGHUP make `Worker.stop_requested` true; a second one aborts.

    Raises the `DistillError` that the loop raised; TrainingError for any other exception of it (the
    traceback is in `run_dir`/error.log); ConfigError or ClusterError where the plan cannot be carried out;
    CancelledError where the run was aborted or had not begun when it was stopped.
    """
    run_dir = run_dir.resolve()
    resolved = resolve_plan(plan)
    interrupts = Interrupts(listener)
    train = _train_in_process if resolved.in_process else _train_with_ray
    try:
        with interrupts.handling():
            final, carried_out = train(loop, run_dir, checkpoints_uri, resolved, listener, interrupts)
    except KeyboardInterrupt:
        checkpoint = settle(run_dir / "checkpoints")
        kept = "its newest checkpoint is kept" if checkpoint else "there is no checkpoint yet"
        raise CancelledError(f"the training was stopped at once; {kept}") from None
    checkpoints = run_dir / "checkpoints"
    return LaunchResult(
        final=final, checkpoint=model_folder(checkpoints, settle(checkpoints)), plan=carried_out
    )


def train_here(
    loop: Callable[[Worker], Event],
    folder: Path,
    uri: str | None,
    *,
    device: torch.device | None,
    listener: Listener,
    stop: StopFlag,
    abortable: AbstractContextManager[None] | None = None,
) -> Event:
    """Run `loop` in this process, with its checkpoints in `folder` and at `uri`; what it returned.

    abortable: what the loop runs within. Raises whatever the loop does.
    """
    checkpoints = open_checkpoints(folder, uri)
    worker = LocalWorker(checkpoints, device=device, listener=listener, stop=stop)
    with contextlib.closing(checkpoints):
        checkpoints.settle()
        with abortable or contextlib.nullcontext():
            final = loop(worker)
            worker.finish()
            return final


def _train_in_process(
    loop: Callable[[Worker], Event],
    run_dir: Path,
    uri: str | None,
    plan: ResolvedPlan,
    listener: Listener,
    interrupts: Interrupts,
) -> tuple[Event, ResolvedPlan]:
    fit_threads()
    remove_ray_storage(run_dir / "checkpoints")  # of a training by Ray that was killed, and goes on here
    try:
        final = train_here(
            loop,
            run_dir / "checkpoints",
            uri,
            device=torch.device("cpu") if plan.use_gpu is False else None,
            listener=listener,
            stop=interrupts,
            abortable=interrupts.abortable(),
        )
    except DistillError:
        raise
    except Exception as error:
        raise to_distill_error(LoopError.of(error), run_dir / "error.log") from error
    return final, plan


def _train_with_ray(
    loop: Callable[[Worker], Event],
    run_dir: Path,
    uri: str | None,
    plan: ResolvedPlan,
    listener: Listener,
    interrupts: Interrupts,
) -> tuple[Event, ResolvedPlan]:
    if plan.address is None:
        listener(Notice(level="info", message="starting Ray on this machine (some 15 seconds)"))
    with contextlib.ExitStack() as stack:
        with interrupts.starting():
            session = stack.enter_context(ray_session(plan))
        settled = check_resources(plan, session.resources, session.limits)
        from distill_ray.runtime.ddp import DDPRun  # Ray is imported in its session's environment

        run = DDPRun(
            loop,
            run_dir=run_dir,
            uri=uri,
            plan=settled,
            session=session,
            listener=with_metrics(listener, private=session.folder is not None),
            interrupts=interrupts,
        )
        return run.train(), settled
