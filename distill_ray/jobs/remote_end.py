"""Ends a job of this cluster at once: `python -m distill_ray.jobs.remote_end ID`, itself run as a job.

Ray's Jobs API cannot: its stop is a message to the job's supervisor, which a job that waits for resources has
not got yet, and which then waits for the job's processes. Here the supervisor is killed; Ray's watchdog kills
the job's processes within a second, and Ray its workers. The parts of Ray used are internal ones of the
minor version that pyproject pins.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.dashboard.modules.job.common import (
    JOB_ACTOR_NAME_TEMPLATE,
    SUPERVISOR_ACTOR_RAY_NAMESPACE,
    JobInfoStorageClient,
    JobStatus,
)

from distill_ray.runtime.plan import WorkerPlan, resolve_plan
from distill_ray.runtime.ray_session import ray_session


async def _record_as_stopped(address: str, job_id: str) -> None:
    jobs = JobInfoStorageClient(GcsClient(address=address), None)
    status = await jobs.get_status(job_id)
    if status is not None and not status.is_terminal():
        # Before the kill, or Ray would record a failure of its own.
        await jobs.put_status(job_id, JobStatus.STOPPED, message="ended at once by distill-ray jobs stop")


def main(job_id: str) -> None:
    """End the job and record it as stopped; nothing happens to one that is over."""
    with ray_session(resolve_plan(WorkerPlan())) as session:
        asyncio.run(_record_as_stopped(session.address, job_id))
        with contextlib.suppress(ValueError):  # it has ended meanwhile
            name = JOB_ACTOR_NAME_TEMPLATE.format(job_id=job_id)
            ray.kill(ray.get_actor(name, namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE))


if __name__ == "__main__":
    main(sys.argv[1])
