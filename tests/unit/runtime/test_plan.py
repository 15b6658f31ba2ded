from __future__ import annotations

import subprocess
import sys

import pytest

from distill_ray.errors import ClusterError, ConfigError
from distill_ray.runtime.plan import ResolvedPlan, WorkerPlan, check_resources, resolve_plan


def _resolve(
    workers: int | None = None,
    share: float | None = None,
    address: str | None = None,
    *,
    gpus: int = 0,
    ray_address: str = "",
) -> ResolvedPlan:
    plan = WorkerPlan(num_workers=workers, gpus_per_worker=share, address=address)
    return resolve_plan(plan, local_gpus=gpus, environ={"RAY_ADDRESS": ray_address})


@pytest.mark.parametrize(
    ("workers", "share", "gpus", "expected"),
    [
        (None, None, 0, 0),
        (None, None, 1, 0),
        (None, None, 2, 2),
        (None, None, 8, 8),
        (None, 2, 8, 4),
        (None, 2, 2, 0),
        (None, 0, 8, 0),
        (0, None, 8, 0),
        (1, None, 0, 1),
        (1, None, 8, 1),
        (1, 0.5, 1, 1),
        (64, None, 0, 64),  # more CPU ranks than cores
        (4, 0, 1, 4),
    ],
)
def test_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, share: float | None, gpus: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    plan = _resolve(workers, share, gpus=gpus)
    assert plan.num_workers == expected
    assert plan.in_process == (expected == 0)
    assert plan.address is None


def test_workers_use_gpus_where_there_are_any() -> None:
    assert _resolve(2, gpus=2).use_gpu is True
    assert _resolve(2, gpus=2).gpus_per_worker == 1.0
    assert _resolve(2, gpus=0).use_gpu is False
    assert _resolve(2, 0, gpus=2).use_gpu is False
    assert _resolve(2, 0, gpus=2).gpus_per_worker == 0.0
    assert _resolve(0, gpus=2).use_gpu is None
    assert _resolve(0, 0, gpus=2).use_gpu is False


def test_an_address_leaves_the_number_to_the_cluster() -> None:
    plan = _resolve(address="head:6379", gpus=1)
    assert (plan.num_workers, plan.use_gpu, plan.address) == (None, None, "head:6379")
    assert _resolve(ray_address="head:6379").address == "head:6379"
    assert _resolve(address="other:1", ray_address="head:6379").address == "other:1"
    assert _resolve(3, ray_address="head:6379").num_workers == 3
    assert _resolve(address="auto").address == "auto"


def test_zero_workers_and_a_local_address_ignore_ray_address() -> None:
    assert _resolve(0, ray_address="head:6379").in_process
    assert _resolve(2, ray_address="local").address is None


def test_a_cluster_decides_for_all_its_gpus_and_at_least_one_worker() -> None:
    asked = _resolve(address="head:6379")
    many = check_resources(asked, {"CPU": 64.0, "GPU": 16.0})
    assert (many.num_workers, many.use_gpu, many.gpus_per_worker) == (16, True, 1.0)
    none = check_resources(asked, {"CPU": 4.0})
    assert (none.num_workers, none.use_gpu, none.gpus_per_worker) == (1, False, 0.0)


def test_an_autoscaler_may_be_asked_for_all_that_it_can_add() -> None:
    now, limits = {"CPU": 0.0}, {"CPU": 96.0, "GPU": 8.0}
    eight = check_resources(_resolve(8, address="head:6379"), now, limits)
    assert (eight.num_workers, eight.use_gpu) == (8, True)
    chosen = check_resources(_resolve(address="head:6379"), now, limits)
    assert (chosen.num_workers, chosen.use_gpu) == (1, True)
    with pytest.raises(ClusterError, match="need 9 GPUs and the cluster at head:6379 has 8"):
        check_resources(_resolve(9, address="head:6379"), now, limits)


@pytest.mark.parametrize(
    ("plan", "resources", "sentence"),
    [
        (
            _resolve(4, address="head:6379"),
            {"CPU": 8.0, "GPU": 2.0},
            "4 workers with 1 GPU each need 4 GPUs and the cluster at head:6379 has 2: lower --num-workers, "
            "or train on CPUs with --gpus-per-worker 0",
        ),
        (
            _resolve(1, 1, address="head:6379"),
            {"CPU": 8.0},
            "1 worker with 1 GPU each need 1 GPUs and the cluster at head:6379 has 0: lower --num-workers, "
            "or train on CPUs with --gpus-per-worker 0",
        ),
        (
            _resolve(9, 0, address="head:6379"),
            {"CPU": 8.0},
            "9 workers need one CPU each and the cluster at head:6379 has 8: lower --num-workers",
        ),
    ],
)
def test_more_than_the_cluster_has_is_said_at_once(
    plan: ResolvedPlan, resources: dict[str, float], sentence: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        check_resources(plan, resources)
    assert str(caught.value) == sentence


def test_more_gpus_than_this_machine_has() -> None:
    with pytest.raises(
        ClusterError, match="4 workers with 1 GPU each need 4 GPUs and this machine's Ray has 2"
    ):
        _resolve(4, gpus=2)
    with pytest.raises(ClusterError, match="torch sees none on this machine"):
        _resolve(1, 1, gpus=0)
    with pytest.raises(ClusterError, match="torch sees none on this machine"):
        _resolve(0, 1, gpus=0)


@pytest.mark.parametrize(
    ("workers", "share", "address", "part"),
    [
        (-1, None, None, "--num-workers: -1 is below 0"),
        (0, None, "head:6379", "leave out --address"),
        (1, -0.5, None, "--gpus-per-worker: -0.5 is not a number of GPUs"),
        (1, float("nan"), None, "nan is not a number of GPUs"),
        (1, 1.5, None, "1.5 is neither a whole number nor a part of one GPU"),
        (2, 0.5, None, "0.5 puts several workers on one GPU, which NCCL refuses"),
    ],
)
def test_numbers_that_mean_nothing(workers: int, share: float | None, address: str | None, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _resolve(workers, share, address, gpus=8)
    assert part in str(caught.value)


def test_all_wrong_numbers_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        _resolve(-2, -1.0)
    assert [problem.flag for problem in caught.value.problems] == ["--num-workers", "--gpus-per-worker"]


@pytest.mark.parametrize(
    "address", ["http://head:8265", "ray://head:10001", "head", "head:", ":1", "head:99999"]
)
def test_an_address_of_the_wrong_kind(address: str) -> None:
    with pytest.raises(ClusterError, match="HOST:PORT"):
        _resolve(address=address)


def test_deciding_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from distill_ray.runtime import WorkerPlan, resolve_plan\n"
        "assert resolve_plan(WorkerPlan(num_workers=0)).in_process\n"
        "sys.exit(int('torch' in sys.modules or 'ray' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_range_of_workers_needs_only_its_least_to_be_there() -> None:
    plan = resolve_plan(WorkerPlan(num_workers=4, min_workers=2, address="head:6379"), environ={})
    settled = check_resources(plan, {"CPU": 2.0})
    assert (settled.min_workers, settled.num_workers, settled.fewest_workers) == (2, 4, 2)
    with pytest.raises(ClusterError, match="2 workers need one CPU each and the cluster at head:6379 has 1"):
        check_resources(plan, {"CPU": 1.0})


@pytest.mark.parametrize(
    ("least", "most", "address", "part"),
    [
        (1, 4, None, "a range is for a cluster, which may lose nodes: give --address, or one number"),
        (3, 2, "head:6379", "3-2 is not a range of workers, such as 1-4"),
        (0, 2, "head:6379", "0-2 is not a range of workers, such as 1-4"),
    ],
)
def test_a_range_of_workers_that_means_nothing(least: int, most: int, address: str | None, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_plan(WorkerPlan(num_workers=most, min_workers=least, address=address), environ={})
    assert part in str(caught.value)


def test_more_workers_than_a_machine_can_take_turns_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert resolve_plan(WorkerPlan(num_workers=8), local_gpus=0, environ={}).num_workers == 8
    message = "9 workers would take turns on this machine's 2 cores: lower --num-workers to at most 8"
    with pytest.raises(ClusterError, match=message):
        resolve_plan(WorkerPlan(num_workers=9), local_gpus=0, environ={})
