"""Every name that Ray Train keeps to itself, and which failures it repeats a run for.

`PrivateTrainer` is Ray Train without the helpers that only a shared cluster needs: some 5 CPU-seconds less
to start. As in `ray_internals.py`, a test says what another version has not got. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = ["FAILURES", "DataParallelTrainer", "PrivateTrainer", "RayTrainError"]

FAILURES = FailureConfig(
    max_failures=0,  # `DDPRun` starts a run again, which knows what can be helped so
    max_preemption_failures=0,  # nor where a cluster announces that it takes a node away
    # Ranks that found no room in time, or a node that died under them, are placed again: so a run waits for a
    # cluster that is full, for as long as its user does.
    controller_failure_limit=-1,
)

# The cleaner frees what a killed controller held. It asks the dashboard, which a private Ray has not got, and
# may find another Ray's: that one does not know the controller, so the cleaner would end a healthy run.
# The other one starts an actor for Ray Data sets, which the loops do not use.
_LEFT_OUT = (DatasetsCallback, PlacementGroupCleanerCallback)


class PrivateTrainer(DataParallelTrainer):  # type: ignore[misc]
    """A trainer for a Ray that has exactly the resources of its one run and ends with it."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, _LEFT_OUT)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = _PrivatePolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**arguments)


class _PrivatePolicy(FixedScalingPolicy):  # type: ignore[misc]
    """Asks no autoscaler for resources (one more actor): there is none, and the resources are there."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
