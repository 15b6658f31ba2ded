"""How many workers a run gets, and where: decided without importing Ray.

`resolve_plan` turns what the user asked for into a `ResolvedPlan`; `ray_session.py` starts or reaches the Ray
that it needs, and `check_resources` then compares it with what that Ray has, because Ray itself waits for
ever for resources that do not exist.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from distill_ray.errors import ClusterError, ConfigError, Problem
from distill_ray.threads import usable_cores

_MOST_RANKS_OF_A_CORE = 4
"""Each is a process with a torch of its own."""


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What the user asked for; None means "choose".

    num_workers: DDP ranks, 0 for none (train in this process). min_workers: go on with as few as these while
    nodes of the cluster are away. gpus_per_worker: 0 trains on CPUs. address: a running Ray cluster,
    HOST:PORT of its head, or "auto" for the one on this machine.
    """

    num_workers: int | None = None
    min_workers: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedPlan:
    """What will be done. `num_workers` 0 is in-process; None is "every GPU of the cluster at `address`".

    `min_workers`: where the number may shrink while nodes are away, the least. `use_gpu` None leaves the
    choice to what is found (in this process, or at `address`). `reason` is a phrase for the summary.
    """

    num_workers: int | None
    use_gpu: bool | None
    gpus_per_worker: float
    address: str | None
    reason: str
    min_workers: int | None = None

    @property
    def in_process(self) -> bool:
        return self.num_workers == 0

    @property
    def fewest_workers(self) -> int:
        """The least number of ranks that may share a batch; 1 in this process."""
        return self.min_workers or self.num_workers or 1


def resolve_plan(
    plan: WorkerPlan, *, local_gpus: int | None = None, environ: Mapping[str, str] = os.environ
) -> ResolvedPlan:
    """Decide between this process, a private Ray on this machine, and a running cluster.

    `local_gpus`: GPUs of this machine, counted with torch where not given and needed.

    Raises ConfigError for numbers that mean nothing, ClusterError where this machine has too few GPUs.
    """
    problems = plan_problems(plan)
    address = plan.address or environ.get("RAY_ADDRESS") or "local"
    if not problems and plan.min_workers is not None and address == "local":
        message = "a range is for a cluster, which may lose nodes: give --address, or one number"
        problems = [Problem("num_workers", message, "--num-workers")]
    if problems:
        raise ConfigError(problems)
    on_cpu = plan.gpus_per_worker == 0
    use_gpu = None if plan.gpus_per_worker is None else not on_cpu
    share = 1.0 if plan.gpus_per_worker is None else float(plan.gpus_per_worker)
    if plan.num_workers == 0 and not use_gpu:
        return _in_process("asked for", use_gpu)
    if address != "local" and plan.num_workers != 0:
        _check_address(address)
        reason = "asked for" if plan.num_workers else "every GPU of the cluster"
        return ResolvedPlan(
            num_workers=plan.num_workers,
            use_gpu=use_gpu,
            gpus_per_worker=share,
            address=address,
            reason=reason,
            min_workers=plan.min_workers,
        )
    gpus = 0 if on_cpu else _count_gpus() if local_gpus is None else local_gpus
    if use_gpu and not gpus:
        raise ClusterError("--gpus-per-worker asks for a GPU and torch sees none on this machine: omit it")
    ranks = plan.num_workers
    if ranks == 0:
        return _in_process("asked for", use_gpu)
    if ranks is None:
        if not gpus or gpus < 2 * share:
            return _in_process("one GPU" if gpus else "training on the CPU" if on_cpu else "no GPU", use_gpu)
        ranks = int(gpus / share)
    private = ResolvedPlan(
        num_workers=ranks,
        use_gpu=gpus > 0 if use_gpu is None else use_gpu,
        gpus_per_worker=share,
        address=None,
        reason="asked for" if plan.num_workers else f"every GPU of this machine ({gpus})",
    )
    if not private.use_gpu:
        check_turns(ranks, "--num-workers")
    return check_resources(private, {"CPU": float(ranks), "GPU": float(gpus)})


def check_turns(workers: int, flags: str) -> None:
    """Raise ClusterError for more CPU workers than this machine's cores can take turns with.

    More of them than cores are allowed: small machines test DDP so.
    """
    cores = usable_cores()
    if workers > _MOST_RANKS_OF_A_CORE * cores:
        raise ClusterError(
            f"{_workers(workers)} would take turns on this machine's {cores} cores: lower {flags} to at "
            f"most {_MOST_RANKS_OF_A_CORE * cores}"
        )


def check_resources(
    plan: ResolvedPlan, resources: Mapping[str, float], limits: Mapping[str, float] | None = None
) -> ResolvedPlan:
    """The plan with every choice made, given the running Ray's total `resources` ("CPU", "GPU").

    `limits`: what an autoscaler may make of them; workers may be asked for up to there, but none is chosen
    beyond what is there now, or 1.

    Raises ClusterError where it asks for more than there can be, be it with the least number of workers.
    """
    limits = resources if limits is None else limits
    cpus, gpus = limits.get("CPU", 0.0), limits.get("GPU", 0.0)
    use_gpu = gpus > 0 if plan.use_gpu is None else plan.use_gpu
    share = plan.gpus_per_worker if use_gpu else 0.0
    ranks = plan.num_workers
    if ranks is None:
        ranks = max(1, int(resources.get("GPU", 0.0) / share)) if use_gpu else 1
    needed = plan.min_workers or ranks
    where = f"the cluster at {plan.address}" if plan.address else "this machine's Ray"
    if needed * share > gpus:
        raise ClusterError(
            f"{_workers(needed)} with {share:g} GPU each need {needed * share:g} GPUs and {where} has "
            f"{gpus:g}: lower --num-workers, or train on CPUs with --gpus-per-worker 0"
        )
    if needed > cpus:
        raise ClusterError(
            f"{_workers(needed)} need one CPU each and {where} has {cpus:g}: lower --num-workers"
        )
    return dataclasses.replace(plan, num_workers=ranks, use_gpu=use_gpu, gpus_per_worker=share)


def _in_process(reason: str, use_gpu: bool | None) -> ResolvedPlan:
    return ResolvedPlan(num_workers=0, use_gpu=use_gpu, gpus_per_worker=1.0, address=None, reason=reason)


def plan_problems(plan: WorkerPlan) -> list[Problem]:
    """What is wrong with the numbers of `plan`, whatever machine or cluster they are for."""
    found = []
    if plan.num_workers is not None and plan.num_workers < 0:
        found.append(Problem("num_workers", f"{plan.num_workers} is below 0", "--num-workers"))
    if plan.min_workers is not None and not 1 <= plan.min_workers <= (plan.num_workers or 0):
        message = f"{plan.min_workers}-{plan.num_workers} is not a range of workers, such as 1-4"
        found.append(Problem("num_workers", message, "--num-workers"))
    if plan.num_workers == 0 and plan.address is not None:
        message = "0 trains in this process, so leave out --address (or give a number of workers)"
        found.append(Problem("num_workers", message, "--num-workers"))
    share = plan.gpus_per_worker
    if share is not None:
        message = ""
        if not 0 <= share < float("inf"):
            message = f"{share} is not a number of GPUs"
        elif share > 1 and share != int(share):
            message = f"{share:g} is neither a whole number nor a part of one GPU"
        elif 0 < share < 1 and plan.num_workers != 1:
            message = f"{share:g} puts several workers on one GPU, which NCCL refuses: give --num-workers 1"
        if message:
            found.append(Problem("gpus_per_worker", message, "--gpus-per-worker"))
    return found


def _check_address(address: str) -> None:
    if "://" in address:
        raise ClusterError(
            f"{address} is not the address of a Ray head: give HOST:PORT (the port is usually 6379), "
            "and use `distill-ray submit` to reach a cluster by its dashboard's URL"
        )
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise ClusterError(f"{address!r} is not an address: give HOST:PORT of the Ray head, or auto")


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()
