"""Every name that Ray's core keeps to itself, behind functions that say what they are for.

Each is one of the minor version that pyproject pins; tests/unit/runtime/test_ray_internals.py says which of
them another version has not got. Ray is imported within the functions: a session sets its environment first.
`train_internals.py` has the names of Ray Train.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def reading_environment(*, loopback: bool) -> Iterator[None]:
    """Ray reads the environment of now, also where it was imported earlier; `loopback`: for this machine
    alone.

    Raises ImportError where Ray is not installed.
    """
    import ray._private.ray_constants as constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    clusters = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = not loopback
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters


@contextlib.contextmanager
def servers_in_own_groups() -> Iterator[None]:
    """What is sent to this process's group, as `timeout` and shells do, does not reach Ray's servers: they
    are needed until this process has kept a checkpoint.
    """
    import ray._private.services as services

    original = services.ConsolePopen
    services.ConsolePopen = functools.partial(original, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = original


@contextlib.contextmanager
def nothing_on_stdout() -> Iterator[None]:
    """Ray prints there that a worker process was lost, whatever `log_to_driver` says; we say it ourselves."""
    import ray._private.worker as worker

    original = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = original


@contextlib.contextmanager
def no_start_by_itself() -> Iterator[None]:
    """Ray's functions start another Ray, with all that it has and open to others, where none is connected:
    not here, nor after an abort, which may leave a thread that still calls them.
    """
    import ray._private.auto_init_hook as hook

    before, hook.enable_auto_connect = hook.enable_auto_connect, False
    yield
    hook.enable_auto_connect = before


def start_timed_out(error: BaseException | None) -> bool:
    """Whether Ray gave up on its servers because they were slow: it has no class of its own for that."""
    return "timed out" in str(error)


def autoscaler_limits() -> Mapping[str, float] | None:
    """The resources to which the cluster's autoscaler may bring it; None where it has none."""
    from ray._private.state import state

    limits: Mapping[str, float] | None = state.get_max_resources_from_cluster_config()
    return limits


def on_node(node_id: str) -> dict[str, str]:
    """The label selector of a node."""
    from ray._raylet import RAY_NODE_ID_KEY  # type: ignore[attr-defined]

    return {RAY_NODE_ID_KEY: node_id}


def wait_until_gone(actor: Any, timeout_s: float) -> None:
    """Wait for an actor that was killed. Raises RayError once it is gone, or GetTimeoutError."""
    import ray

    ray.get(actor.__ray_ready__.remote(), timeout=timeout_s)


def loop_exception(failure: BaseException) -> BaseException:
    """What a training function raised: Ray Train wraps it to carry the traceback's text."""
    wrapped: BaseException = getattr(failure, "_base_exc", failure)
    return wrapped


async def record_job_as_stopped(address: str, job_id: str, message: str) -> None:
    """Have Ray list a job that is not over as stopped; `address`: the cluster's."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.dashboard.modules.job.common import JobInfoStorageClient, JobStatus

    jobs = JobInfoStorageClient(GcsClient(address=address), None)
    status = await jobs.get_status(job_id)
    if status is not None and not status.is_terminal():
        await jobs.put_status(job_id, JobStatus.STOPPED, message=message)


def job_supervisor(job_id: str) -> Any:
    """The actor in which a job's processes have their parent. Raises ValueError where it has ended."""
    import ray
    from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE

    return ray.get_actor(
        JOB_ACTOR_NAME_TEMPLATE.format(job_id=job_id), namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE
    )
