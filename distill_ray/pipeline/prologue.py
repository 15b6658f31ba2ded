"""How every training of the pipeline begins: settings are checked, then the machine is found.

The settings are resolved once after that, when the facts of the data are known too (`config/resolve.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from distill_ray.config.check import check_settings, trainings_of
from distill_ray.config.resolve import MachineFacts, Training, check_shared_batch
from distill_ray.runtime.plan import (
    ResolvedPlan,
    WorkerPlan,
    check_resources,
    plan_problems,
    resolve_plan,
)
from distill_ray.runtime.ray_session import ray_session


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Where a training will run: the plan with its number of workers, and what settings depend on."""

    plan: ResolvedPlan
    machine: MachineFacts

    @classmethod
    def of(cls, plan: ResolvedPlan) -> Ready:
        machine = MachineFacts(
            accelerator=_accelerator(plan),
            workers=plan.num_workers or 1,
            fewest_workers=plan.min_workers,
        )
        return cls(plan=plan, machine=machine)


def check_request(command: str, given: Mapping[str, object], plan: WorkerPlan, *, tune: bool = True) -> None:
    """Raise ConfigError with all that is wrong with the settings and the numbers of workers.

    `command` and `tune` as in `check_settings`. Neither data nor machine are looked at.
    """
    check_settings(command, given, tune=tune, problems=plan_problems(plan))
    asked = MachineFacts(workers=plan.num_workers or 1, fewest_workers=plan.min_workers)
    for training in trainings_of(command, tune=tune):
        if f"{training.table}.batch_size" in given:
            check_shared_batch(training, given, asked)


@contextlib.contextmanager
def ready(
    plan: WorkerPlan,
    given: Mapping[str, object],
    training: type[Training],
) -> Iterator[Ready]:
    """Where the training will run; a cluster is asked for its resources, and stays connected meanwhile.

    Raises ClusterError where there is too little of anything, ConfigError where the batch cannot be shared.
    """
    resolved = resolve_plan(plan)
    with contextlib.ExitStack() as stack:
        if resolved.address is not None:
            session = stack.enter_context(ray_session(resolved))
            resolved = check_resources(resolved, session.resources, session.limits)
        found = Ready.of(resolved)
        check_shared_batch(training, given, found.machine)
        yield found


def _accelerator(plan: ResolvedPlan) -> bool:
    if plan.use_gpu is not None:
        return plan.use_gpu
    import torch

    return torch.cuda.is_available()
