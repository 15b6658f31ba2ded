"""On what a search runs: this machine or a cluster, and how many trials at a time it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from distill_ray.config.sweep import SweepConfig
from distill_ray.errors import ClusterError
from distill_ray.runtime.plan import ResolvedPlan, WorkerPlan, check_turns, resolve_plan
from distill_ray.runtime.ray_session import Session, ray_session
from distill_ray.threads import usable_cores
from distill_ray.tune.space import first_round_size


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """How many trials run at a time. `gpus`: of a trial; `threads`: torch's in a trial's process."""

    concurrent: int
    gpus: float
    workers: int
    threads: int

    @classmethod
    def of(
        cls, sweep: SweepConfig, resources: Mapping[str, float], *, cores: int, where: str
    ) -> TrialResources:
        """As many trials at a time as `resources` ("CPU", "GPU") hold; `cores` are shared by their threads.

        Raises ClusterError where they do not hold one.
        """
        workers, cpus, gpus = sweep.workers_per_trial, resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        share = sweep.gpus_per_trial
        if share is None:
            share = float(workers) if gpus else 0.0
        rooms = [cpus // workers, first_round_size(sweep)]
        if share:
            rooms.append(gpus / share + 1e-9)
        if share > gpus:
            raise ClusterError(
                f"a trial needs {share:g} GPUs and {where} has {gpus:g}: lower --gpus-per-trial or "
                "--workers-per-trial, or train on CPUs with --gpus-per-trial 0"
            )
        if workers > cpus:
            raise ClusterError(
                f"a trial's {workers} workers need one CPU each and {where} has {cpus:g}: "
                "lower --workers-per-trial"
            )
        concurrent = max(1, int(min(rooms)))
        if sweep.max_concurrent is not None:
            concurrent = min(concurrent, sweep.max_concurrent)
        return cls(
            concurrent=concurrent,
            gpus=share,
            workers=workers,
            threads=max(1, cores // (concurrent * workers)),
        )


@dataclass(frozen=True, kw_only=True)
class SearchMachine:
    """Where a search runs: the plan of one worker there, and how many trials it holds."""

    plan: ResolvedPlan
    trials: TrialResources
    cores: int

    def session(self) -> contextlib.AbstractContextManager[Session]:
        """The Ray for all trials: the cluster's, or a private one that holds just them."""
        trials = self.trials
        plan = replace(
            self.plan,
            num_workers=trials.concurrent * trials.workers,
            use_gpu=trials.gpus > 0,
            gpus_per_worker=trials.gpus / trials.workers,
        )
        nested = trials.workers > 1  # then the process of a trial drives its workers
        return ray_session(plan, spare_cpus=1 if nested else 0)

    def trials_of(self, sweep: SweepConfig, session: Session) -> TrialResources:
        """What the Ray in use allows."""
        resources = session.limits or session.resources
        return TrialResources.of(sweep, resources, cores=self.cores, where="the Ray in use")


@contextlib.contextmanager
def find_machine(address: str | None, sweep: SweepConfig) -> Iterator[SearchMachine]:
    """Where the search will run; a cluster stays connected meanwhile."""
    on_cpu = sweep.gpus_per_trial == 0
    plan = resolve_plan(WorkerPlan(num_workers=1, gpus_per_worker=0 if on_cpu else None, address=address))
    if plan.address is not None:
        with ray_session(plan) as session:
            resources = session.limits or session.resources
            where, cores = f"the cluster at {plan.address}", int(resources.get("CPU", 1))
            trials = TrialResources.of(sweep, resources, cores=cores, where=where)
            yield SearchMachine(plan=plan, trials=trials, cores=cores)
        return
    import torch

    cores = usable_cores()
    wanted = sweep.workers_per_trial * (sweep.max_concurrent or 1)
    resources = {"CPU": max(cores, wanted), "GPU": 0 if on_cpu else torch.cuda.device_count()}
    trials = TrialResources.of(sweep, resources, cores=cores, where="this machine")
    if not trials.gpus:
        flags = (
            "--workers-per-trial"
            if sweep.max_concurrent is None
            else "--workers-per-trial × --max-concurrent"
        )
        check_turns(trials.concurrent * trials.workers, flags)
    yield SearchMachine(plan=plan, trials=trials, cores=cores)
