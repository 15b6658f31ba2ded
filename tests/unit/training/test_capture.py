from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.events.records import Event, Notice
from distill_ray.training import vqvae
from distill_ray.training.capture import Gradients
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker

Config = Callable[..., VQTrainConfig]


def trained(
    corpus: Corpus, config: VQTrainConfig, folder: Path, device: str
) -> tuple[list[float], dict[str, torch.Tensor], list[Event]]:
    """Summed losses after each of eight steps, the weights, and what was said."""
    said: list[Event] = []
    task = VQTask(corpus, config, LocalWorker(folder, device=torch.device(device), listener=said.append))
    losses = []
    for step in range(8):
        task.train_step(step, 0.1)
        losses.append(float(task.sums[0]))
    return losses, task.model.state_dict(), said


def test_without_a_graph_to_be_had_training_says_so_once_and_goes_on(
    corpus: Corpus, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("graphs can be had here")
    plain, weights, silent = trained(corpus, small_config(), tmp_path, "cpu")

    def capturing(*given: object, **named: object) -> Gradients:
        return Gradients(*given, **{**named, "capture": True})  # type: ignore[arg-type]

    monkeypatch.setattr(vqvae, "Gradients", capturing)
    losses, same_weights, said = trained(corpus, small_config(), tmp_path, "cpu")
    assert losses == plain
    assert all(torch.equal(value, same_weights[name]) for name, value in weights.items())
    assert silent == []
    assert [type(event) for event in said] == [Notice]
    assert "steps run without a CUDA graph" in said[0].message  # type: ignore[union-attr]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("adversarial", [False, True])
def test_a_captured_step_is_the_step(
    corpus: Corpus, small_config: Config, tmp_path: Path, adversarial: bool
) -> None:
    stage = {"adversarial__enabled": adversarial, "adversarial__start": 0.0, "adversarial__every": 2}
    eager, weights, _ = trained(corpus, small_config(training__capture="off", **stage), tmp_path, "cuda")
    captured, same_weights, said = trained(corpus, small_config(**stage), tmp_path, "cuda")
    assert ["steps run without" in event.message for event in said] == [False] * adversarial  # type: ignore[union-attr]
    assert captured == eager
    assert all(torch.equal(value, same_weights[name]) for name, value in weights.items())
