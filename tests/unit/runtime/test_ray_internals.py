"""What this package takes from Ray that Ray does not promise: one row a name, so that a failure names it.

Where another minor version of Ray is tried, run this first.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from distill_ray.runtime.ray_internals import no_start_by_itself
from distill_ray.runtime.ray_session import _PRIVATE_ENVIRONMENT, _TRACKED, TRAIN_ENVIRONMENT

PACKAGE = Path(__file__).parents[3] / "distill_ray"
BEHIND = {"ray_internals.py", "train_internals.py"}
TRAIN = "ray.train.v2"


def found(name: str) -> Any:
    """The object of a dotted name; AttributeError or ImportError says what is missing."""
    module, _, attribute = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in filter(None, attribute.split(".")):
        value = getattr(value, part)
    return value


def takes(*names: str) -> Callable[[Any], bool]:
    return lambda function: set(names) <= set(inspect.signature(function).parameters)


def says(*pieces: str) -> Callable[[Any], bool]:
    return lambda item: all(piece in inspect.getsource(item) for piece in pieces)


def defaults(**expected: object) -> Callable[[Any], bool]:
    return lambda kind: {key: getattr(kind(), key) for key in expected} == expected


CONTRACT: list[tuple[str, str, Callable[[Any], bool]]] = [
    # (what breaks without it, module:name, what must be true of it)
    ("a version that these were read in", "ray:__version__", lambda version: version.startswith("2.60.")),
    ("a private Ray on loopback", "ray._private.ray_constants:ENABLE_RAY_CLUSTER", lambda on: on in (0, 1)),
    (
        "a private Ray on loopback",
        "ray._private.services",
        says("if not ray_constants.ENABLE_RAY_CLUSTER:"),
    ),
    ("Ray reads its environment again", "ray._raylet:Config.initialize", callable),
    ("Ray reads its token again", "ray._raylet:AuthenticationTokenLoader.instance", callable),
    ("Ctrl-C spares Ray's servers", "ray._private.services:ConsolePopen.__init__", callable),
    ("Ctrl-C spares Ray's servers", "ray._private.services:start_ray_process", says("ConsolePopen(")),
    ("silence on stdout", "ray._private.worker:print_to_stdstream", takes("data", "ignore_prefix")),
    ("no Ray that nobody began", "ray._private.auto_init_hook:enable_auto_connect", bool),
    ("no Ray that nobody began", "ray._private.auto_init_hook:auto_init_ray", says("if enable_auto_connect")),
    ("a second try of a slow start", "ray._private.node", says("timed out during startup")),
    ("files of a private Ray in its folder", "ray:init", says('"_temp_dir"')),
    ("autoscaled clusters", "ray._private.state:state.get_max_resources_from_cluster_config", takes()),
    ("the mailbox on the driver's node", "ray._raylet:RAY_NODE_ID_KEY", lambda key: key == "ray.io/node-id"),
    ("freeing ranks after a kill", "ray.actor", says("__ray_ready__")),
    (
        "what a loop raised",
        f"{TRAIN}._internal.exceptions:UserExceptionWithTraceback",
        says("self._base_exc"),
    ),
    ("jobs stop --now", "ray._raylet:GcsClient", callable),
    ("jobs stop --now", "ray.dashboard.modules.job.common:JobInfoStorageClient.get_status", takes("job_id")),
    (
        "jobs stop --now",
        "ray.dashboard.modules.job.common:JobInfoStorageClient.put_status",
        takes("job_id", "status", "message"),
    ),
    (
        "jobs stop --now",
        "ray.dashboard.modules.job.common:JobStatus.STOPPED",
        lambda item: item.is_terminal(),
    ),
    (
        "jobs stop --now",
        "ray.dashboard.modules.job.common:JOB_ACTOR_NAME_TEMPLATE",
        lambda text: "{job_id}" in text,
    ),
    (
        "jobs stop --now",
        "ray.dashboard.modules.job.common:SUPERVISOR_ACTOR_RAY_NAMESPACE",
        lambda name: isinstance(name, str),
    ),
    ("doctor's look at ray[default]", "ray.dashboard.optional_deps", inspect.ismodule),
    (
        "a quick start of ranks here",
        f"{TRAIN}.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks",
        says("DatasetsCallback", "PlacementGroupCleanerCallback"),
    ),
    (
        "a quick start of ranks here",
        f"{TRAIN}.api.data_parallel_trainer:DataParallelTrainer.fit",
        says("self._initialize_and_run_controller(", "scaling_policy="),
    ),
    (
        "a quick start of ranks here",
        f"{TRAIN}._internal.execution.scaling_policy:FixedScalingPolicy.after_controller_start",
        takes("train_run_context"),
    ),
    (
        "a quick start of ranks here",
        f"{TRAIN}._internal.execution.scaling_policy:FixedScalingPolicy._maybe_send_resource_request",
        takes(),
    ),
    (
        "ranks on a cluster's network",
        "ray.train.torch:TorchConfig.backend_cls",
        lambda item: item is not None,
    ),
    ("ranks on a cluster's network", "ray.train.torch.config:_TorchBackend.on_start", takes("worker_group")),
    (
        "which failures Ray repeats a run for",
        f"{TRAIN}.api.config:FailureConfig",
        defaults(max_failures=0, max_preemption_failures=-1, controller_failure_limit=-1),
    ),
]


@pytest.mark.parametrize(("breaks", "name", "is_kept"), CONTRACT, ids=[f"{row[1]}" for row in CONTRACT])
def test_ray_has_what_is_taken_from_it(breaks: str, name: str, is_kept: Callable[[Any], bool]) -> None:
    assert is_kept(found(name)), f"{breaks} needs {name}, which Ray {version('ray')} has otherwise"


# Others are read by Ray's compiled part, torch or NCCL.
READ_IN_PYTHON = ("RAY_TRAIN_", "TUNE_", "RAY_AIR_", "RAY_CHDIR_", "RAY_ENABLE_", "RAY_ACCEL_")
VARIABLES = [
    name for name in (*TRAIN_ENVIRONMENT, *_TRACKED, *_PRIVATE_ENVIRONMENT) if name.startswith(READ_IN_PYTHON)
]


@pytest.mark.parametrize("variable", VARIABLES)
def test_ray_still_reads_the_variables_that_are_set(variable: str) -> None:
    if not variable.startswith(
        ("RAY_TRAIN_", "TUNE_", "RAY_AIR_", "RAY_CHDIR_", "RAY_ENABLE_", "RAY_ACCEL_")
    ):
        pytest.skip("read by Ray's compiled part, torch or NCCL")
    files = (
        f"{TRAIN}._internal.constants",
        "ray.train.constants",
        "ray.air.constants",
        "ray.tune.constants",
        "ray._private.ray_constants",
        "ray._private.accelerators.accelerator",
    )
    assert any(variable in inspect.getsource(importlib.import_module(name)) for name in files), variable


def test_which_failures_ray_repeats_a_run_for() -> None:
    from ray.train.v2._internal.exceptions import (
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )
    from ray.train.v2._internal.execution.failure_handling import FailureDecision, create_failure_policy
    from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
    from ray.train.v2.api.preemption import PreemptionInfo

    from distill_ray.runtime.train_internals import FAILURES

    preempted = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [0]}))
    policy = create_failure_policy(FAILURES)
    for failure, decision in (
        (WorkerGroupError("a loop's own error", {0: ValueError()}), FailureDecision.RAISE),
        (preempted, FailureDecision.RAISE),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), FailureDecision.RETRY),
        (ControllerError(WorkerGroupStartupFailedError("a node died")), FailureDecision.RETRY),
        (ControllerError(ValueError("a mistake of the controller")), FailureDecision.RAISE),
    ):
        for _ in range(3):
            assert policy.make_decision(failure) == decision, failure


def test_a_node_that_is_taken_away_costs_a_restart_and_not_the_run() -> None:
    from ray.train.v2.api.exceptions import PreemptionError
    from ray.train.v2.api.preemption import PreemptionInfo

    from distill_ray.runtime.ddp import lost_a_process

    taken = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [1]})
    assert lost_a_process(PreemptionError(taken))


def test_a_thread_that_outlives_an_abort_starts_no_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private.auto_init_hook import auto_init_ray

    monkeypatch.setattr("ray._private.auto_init_hook.enable_auto_connect", True)
    started: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda: started.append(True))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with no_start_by_itself():
        pass
    auto_init_ray()
    assert started == [True]  # as in a notebook whose training has ended
    with contextlib.suppress(KeyboardInterrupt), no_start_by_itself():
        auto_init_ray()
        raise KeyboardInterrupt
    auto_init_ray()
    assert started == [True]


def test_nothing_else_takes_private_names_of_ray() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name in BEHIND:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for name in _names(node):
                private = any(part.startswith("_") for part in name.split(".")[1:])
                assert not private, f"{path}:{getattr(node, 'lineno', 0)} takes {name}"
                assert not name.startswith(("ray.dashboard", TRAIN)), f"{path} takes {name}"


def _names(node: ast.AST) -> list[str]:
    """The names of Ray that a node is: imported, or read from the module."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Attribute):
        names = [ast.unparse(node).partition("(")[0]]
    else:
        names = []
    return [name for name in names if name.split(".")[0] == "ray"]
