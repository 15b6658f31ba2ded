"""The settings of a command that is to be submitted, checked on the client as far as they need no data.

The job would say the same of them, a minute later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distill_ray.cli import options
from distill_ray.cli.job_arguments import JobCommand
from distill_ray.cli.settings import own_flags
from distill_ray.config.catalogue import overrides_of
from distill_ray.config.check import trainings_of, without_search
from distill_ray.config.resolve import MachineFacts, check_shared_batch

if TYPE_CHECKING:
    from distill_ray.runtime.plan import WorkerPlan


def check_settings(command: JobCommand, resources: Mapping[str, float], address: str) -> None:
    """Raise ConfigError with every wrong setting, ClusterError where `resources` are too few.

    resources: what the cluster at `address` (HOST:PORT) has, "CPU" and "GPU".
    """
    from distill_ray.pipeline.prologue import check_request
    from distill_ray.runtime.plan import WorkerPlan

    plan, tune = WorkerPlan(), not command.values.get("no_tune")
    if command.takes("num_workers"):
        plan = options.worker_plan(command.values["num_workers"], command.values["gpus_per_worker"], None)
    with own_flags(command.name):
        given = _given(command, tune=tune)
        check_request(command.name, given, plan, tune=tune)
        if command.takes("num_workers"):
            machine = _machine(plan, resources, address)
            for training in trainings_of(command.name, tune=tune):
                check_shared_batch(training, given, machine)
        if command.name in ("tune", "run") and tune:
            _check_trials(given, resources, address)


def _check_trials(given: Mapping[str, object], resources: Mapping[str, float], address: str) -> None:
    from distill_ray.tune.machine import TrialResources
    from distill_ray.tune.settings import SweepSettings

    TrialResources.of(SweepSettings.of(given).sweep, resources, cores=1, where=f"the cluster at {address}")


def _machine(plan: WorkerPlan, resources: Mapping[str, float], address: str) -> MachineFacts:
    from distill_ray.runtime.plan import check_resources, resolve_plan

    resolved = resolve_plan(plan, environ={"RAY_ADDRESS": address})
    if not resolved.in_process:
        resolved = check_resources(resolved, resources)
    return MachineFacts(
        accelerator=resources.get("GPU", 0.0) > 0,
        workers=resolved.num_workers or 1,
        fewest_workers=resolved.min_workers,
    )


def _given(command: JobCommand, *, tune: bool) -> dict[str, object]:
    from distill_ray.runs.inputs import given_settings

    config = command.values["config"]
    overrides = overrides_of(command.name, command.values)
    given = given_settings(config and Path(config), overrides)
    return given if tune else without_search(given, overrides)
