"""Ray is imported by the tests and not with this file, which every process of a test collects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distill_ray.runtime.failure import LoopError

_PEER = LoopError.of(RuntimeError("[gloo] Connection closed by peer"))
_BUG = LoopError.of(TypeError("a bug"))


def _dead() -> Exception:
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    error: Exception = WorkerHealthCheckFailedError("a worker did not answer", RayActorError())
    return error


def _wrapped(failure: Exception) -> Exception:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    error: Exception = UserExceptionWithTraceback(failure, "trace")
    return error


def _group(*failures: Exception) -> Exception:
    from ray.train.v2.api.exceptions import WorkerGroupError

    wrapped = [_wrapped(failure) if isinstance(failure, LoopError) else failure for failure in failures]
    error: Exception = WorkerGroupError("many lines", dict(enumerate(wrapped)))
    return error


def _controller_lost() -> Exception:
    from ray.exceptions import RayActorError

    error: Exception = RayActorError()
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda: _group(_dead()), True),
        (lambda: _group(_PEER), True),
        (lambda: _group(_PEER, _dead()), True),
        (lambda: _group(_BUG), False),
        (lambda: _group(_PEER, _BUG), False),
        (lambda: _group(_wrapped(ModuleNotFoundError("no module x"))), False),
        (_controller_lost, True),
        (lambda: TypeError("cannot pickle the loop"), False),
    ],
)
def test_only_a_lost_process_is_worth_another_try(error: Callable[[], Exception], expected: bool) -> None:
    from distill_ray.runtime.ddp import lost_a_process

    assert lost_a_process(error()) is expected


def test_an_error_of_the_controller_itself_is_not_a_lost_process() -> None:
    from ray.exceptions import RayActorError
    from ray.train import ControllerError

    from distill_ray.runtime.ddp import lost_a_process

    assert lost_a_process(ControllerError(ValueError("storage"))) is False
    assert lost_a_process(ControllerError(RayActorError())) is True
