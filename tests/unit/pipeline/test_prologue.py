from __future__ import annotations

import pytest

from distill_ray.config.prior import PriorTrainingConfig
from distill_ray.config.resolve import MachineFacts
from distill_ray.config.vqvae import TrainingConfig
from distill_ray.errors import ConfigError
from distill_ray.pipeline.prologue import check_request, ready
from distill_ray.runtime.plan import WorkerPlan

IN_PROCESS = WorkerPlan(num_workers=0, gpus_per_worker=0)


def test_workers_and_settings_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        check_request("train-prior", {"prior.num_layers": 0, "training.lr": -1.0}, WorkerPlan(num_workers=-1))
    assert [problem.key for problem in caught.value.problems] == ["num_workers", "prior.num_layers"]


@pytest.mark.parametrize(
    ("command", "tune", "table"),
    [
        ("train", True, "training"),
        ("train-prior", True, "prior_training"),
        ("run", True, "prior_training"),
        ("run", False, "training"),
    ],
)
def test_a_batch_that_is_given_must_suit_the_workers_that_are(command: str, tune: bool, table: str) -> None:
    given = {f"{table}.batch_size": 6}
    check_request(command, given, WorkerPlan(num_workers=3), tune=tune)
    check_request(command, given, WorkerPlan(), tune=tune)  # their number is not known yet
    with pytest.raises(ConfigError, match=r"6 windows cannot be shared by 4 workers"):
        check_request(command, given, WorkerPlan(num_workers=4), tune=tune)


@pytest.mark.parametrize("training", [TrainingConfig, PriorTrainingConfig])
def test_in_this_process_there_is_one_worker(
    training: type[TrainingConfig | PriorTrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ready(IN_PROCESS, {}, training) as found:
        assert found.plan.in_process
        assert found.machine == MachineFacts(accelerator=False, workers=1, fewest_workers=None)
