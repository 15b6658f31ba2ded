"""Running the training loops: in this process, on a private Ray, or on a cluster.

The entry is `distill_ray.runtime.launch.launch` (not exported here: the module has that name).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill_ray.lazy import lazy_exports

if TYPE_CHECKING:
    from distill_ray.runtime.launch import LaunchResult as LaunchResult
    from distill_ray.runtime.plan import ResolvedPlan as ResolvedPlan
    from distill_ray.runtime.plan import WorkerPlan as WorkerPlan
    from distill_ray.runtime.plan import resolve_plan as resolve_plan

__all__ = ["LaunchResult", "ResolvedPlan", "WorkerPlan", "resolve_plan"]

__getattr__ = lazy_exports(
    __name__,
    {
        "LaunchResult": "distill_ray.runtime.launch",
        "ResolvedPlan": "distill_ray.runtime.plan",
        "WorkerPlan": "distill_ray.runtime.plan",
        "resolve_plan": "distill_ray.runtime.plan",
    },
)
