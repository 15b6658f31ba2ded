from __future__ import annotations

import pytest
from ray.exceptions import RayActorError
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from distill_ray.runtime.ddp import lost_a_process
from distill_ray.runtime.failure import LoopError

_PEER = LoopError.of(RuntimeError("[gloo] Connection closed by peer"))
_BUG = LoopError.of(TypeError("a bug"))
_DEAD = WorkerHealthCheckFailedError("a worker did not answer", RayActorError())


def _group(*failures: Exception) -> WorkerGroupError:
    wrapped = [
        UserExceptionWithTraceback(failure, "trace") if isinstance(failure, LoopError) else failure
        for failure in failures
    ]
    return WorkerGroupError("many lines", dict(enumerate(wrapped)))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_group(_DEAD), True),
        (_group(_PEER), True),
        (_group(_PEER, _DEAD), True),
        (_group(_BUG), False),
        (_group(_PEER, _BUG), False),
        (_group(UserExceptionWithTraceback(ModuleNotFoundError("no module x"), "trace")), False),
        (RayActorError(), True),  # the controller
        (TypeError("cannot pickle the loop"), False),
    ],
)
def test_only_a_lost_process_is_worth_another_try(error: Exception, expected: bool) -> None:
    assert lost_a_process(error) is expected


def test_an_error_of_the_controller_itself_is_not_a_lost_process() -> None:
    assert lost_a_process(ControllerError(ValueError("storage"))) is False
    assert lost_a_process(ControllerError(RayActorError())) is True
