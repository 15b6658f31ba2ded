"""Ends a job of this cluster at once: `python -m distill_ray.jobs.remote_end ID`, itself run as a job.

Ray's Jobs API cannot: its stop is a message to the job's supervisor, which a job that waits for resources has
not got yet, and which then waits for the job's processes. Here the supervisor is killed; Ray's watchdog kills
the job's processes within a second, and Ray its workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import ray

from distill_ray.runtime.plan import WorkerPlan, resolve_plan
from distill_ray.runtime.ray_internals import job_supervisor, record_job_as_stopped
from distill_ray.runtime.ray_session import ray_session


def main(job_id: str) -> None:
    """End the job and record it as stopped; nothing happens to one that is over."""
    with ray_session(resolve_plan(WorkerPlan())) as session:
        # Before the kill, or Ray would record a failure of its own.
        asyncio.run(record_job_as_stopped(session.address, job_id, "ended at once by distill-ray jobs stop"))
        with contextlib.suppress(ValueError):  # it has ended meanwhile
            ray.kill(job_supervisor(job_id))


if __name__ == "__main__":
    main(sys.argv[1])
