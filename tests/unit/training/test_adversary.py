from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.events.records import Event, Notice, TrainingCompleteEvent, VQEpochMetrics
from distill_ray.training import checkpoint
from distill_ray.training.vq_objective import AdversarialObjective, Objective
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker
from distill_ray.vqvae import VQVAE, ReconstructionLoss
from distill_ray.vqvae.adversarial import adversarial_loss, discriminator_loss, feature_matching_loss
from distill_ray.vqvae.discriminator import Discriminators

CPU = torch.device("cpu")
Config = Callable[..., VQTrainConfig]
Train = Callable[..., tuple[TrainingCompleteEvent, list[Event]]]
# Nine steps an epoch.
FEW_STEPS: dict[str, object] = {"training__batch_size": 8, "adversarial__width": 4}
JUDGED = {"adversarial", "feature_matching", "discriminator"}


@pytest.fixture
def config(small_config: Config) -> VQTrainConfig:
    return small_config(**FEW_STEPS, training__epochs=3, adversarial__enabled=True, adversarial__start=0.5)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step's objective and what went into it."""

    objective: AdversarialObjective
    plain: Objective
    audio_BCT: Tensor
    depth_B: Tensor


def step_of(config: VQTrainConfig, *, learns: bool = True) -> Step:
    torch.manual_seed(0)
    model, loss = VQVAE(config.model), ReconstructionLoss(config.model, config.loss)
    model.initialise(torch.randn(4, 1, 2048), torch.Generator().manual_seed(0))
    judges = Discriminators(config.model, config.adversarial.width, banded=config.adversarial.banded)
    return Step(
        objective=AdversarialObjective(model, loss, config.loss, judges, config.adversarial, learns=learns),
        plain=Objective(model, loss, config.loss),
        audio_BCT=0.1 * torch.randn(3, 1, 2048),
        depth_B=torch.tensor([1, 2, 2]),
    )


@pytest.mark.parametrize("judged_every", [1, 2])
def test_gradients_are_those_of_the_losses_written_out(small_config: Config, judged_every: int) -> None:
    """One pass through each network against passes of their own for each loss."""
    config = small_config(
        adversarial__enabled=True, adversarial__width=4, adversarial__judged_every=judged_every
    )
    step = step_of(config)
    model, judges, settings = step.objective.model, step.objective.discriminators, config.adversarial
    judged_BCT = step.audio_BCT[::judged_every]
    loss, terms, output = step.objective(step.audio_BCT, step.depth_B)
    loss.backward()
    of_model = [value.grad for value in step.plain.trained()]
    of_judges = [value.grad for value in judges.parameters()]

    again = model(step.audio_BCT, step.depth_B)
    fake_BCT = again.audio_BCT[::judged_every]
    found = discriminator_loss(judges(judged_BCT), judges(fake_BCT.detach()), kind="hinge")
    for one, other in zip(of_judges, torch.autograd.grad(found, list(judges.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-6)

    fake = judges(fake_BCT)
    reconstruction = step.objective.loss.total(step.objective.loss(again.audio_BCT, step.audio_BCT))
    matching = feature_matching_loss(judges(judged_BCT), fake)
    passing = adversarial_loss(fake, kind="hinge") + settings.feature_matching * matching
    scale_B = torch.stack(
        [
            torch.autograd.grad(value, again.audio_BCT, retain_graph=True)[0].flatten(1).norm(dim=1)
            for value in (reconstruction, passing)
        ]
    )
    # Windows that were not judged have no such gradient.
    share_B = settings.share * scale_B[0] / scale_B[1].clamp(min=1e-8)
    (passing_BCT,) = torch.autograd.grad(passing, again.audio_BCT, retain_graph=True)
    assert [bool(each.any()) for each in passing_BCT] == [index % judged_every == 0 for index in range(3)]
    weighted = (again.audio_BCT * (share_B[:, None, None] * passing_BCT)).sum()
    expected = torch.autograd.grad(
        reconstruction + weighted + step.objective.of_codes(again, torch.zeros(())), step.plain.trained()
    )
    for one, other in zip(of_model, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 + 1e-6 * other.abs().max().item())
    named = dict(zip(step.objective.terms, terms.tolist(), strict=True))
    assert named["discriminator"] == pytest.approx(found.item(), rel=1e-5)
    assert named["feature_matching"] == pytest.approx(matching.item(), rel=1e-5)
    assert torch.equal(output.audio_BCT, again.audio_BCT)


def test_its_reconstruction_terms_are_those_of_the_plain_objective(config: VQTrainConfig) -> None:
    step = step_of(config)
    _, terms, _ = step.objective(step.audio_BCT, step.depth_B)
    total, plain, _ = step.plain(step.audio_BCT, step.depth_B)
    assert torch.allclose(terms[: len(plain)], plain, rtol=1e-6)
    assert plain[0].item() == pytest.approx(total.item())


def test_discriminators_that_only_judge_get_no_gradient(config: VQTrainConfig) -> None:
    learning, judging = step_of(config), step_of(config, learns=False)
    results = []
    for step in (learning, judging):
        loss, terms, _ = step.objective(step.audio_BCT, step.depth_B)
        loss.backward()
        results.append((terms, [value.grad for value in step.plain.trained()]))
    assert all(value.grad is None for value in judging.objective.discriminators.parameters())
    assert len(judging.objective.trained()) == len(judging.plain.trained())
    assert torch.allclose(results[0][0], results[1][0])
    assert all(torch.allclose(*pair) for pair in zip(results[0][1], results[1][1], strict=True))


def epochs(events: list[Event]) -> list[VQEpochMetrics]:
    return [event for event in events if isinstance(event, VQEpochMetrics)]


def test_discriminators_take_part_from_their_share_of_the_budget_on(
    train: Train, corpus: Corpus, config: VQTrainConfig, small_config: Config, tmp_path: Path
) -> None:
    completed, events = train(corpus, config, tmp_path / "with")
    _, plain = train(corpus, small_config(**FEW_STEPS, training__epochs=3), tmp_path / "without")
    first, second, third = epochs(events)
    assert first.losses == epochs(plain)[0].losses  # until then nothing is different
    assert set(second.losses) - set(first.losses) == JUDGED  # they begin in the middle of three epochs
    assert set(third.losses) - set(first.losses) == JUDGED
    assert third.train_loss != epochs(plain)[2].train_loss
    said = [
        event.message for event in events if isinstance(event, Notice) and "Discriminators" in event.message
    ]
    assert len(said) == 1
    # Distance is not what is trained for any more: the newest epoch is kept.
    assert completed.best_epoch == 3
    assert completed.best_val_loss == third.val_loss


@pytest.mark.parametrize(
    ("cut_after", "every", "banded"),
    [
        (12, 2, True),
        pytest.param(3, 1, False, marks=pytest.mark.slow),
        pytest.param(16, 1, False, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_adversarial_run_ends_as_an_uncut_one(
    train: Train,
    corpus: Corpus,
    small_config: Config,
    tmp_path: Path,
    cut_after: int,
    every: int,
    banded: bool,
) -> None:
    config = small_config(
        **FEW_STEPS,
        training__epochs=2,
        adversarial__enabled=True,
        adversarial__start=0.4,
        adversarial__every=every,
        adversarial__banded=banded,
    )
    uncut, whole = train(corpus, config, tmp_path / "uncut")
    cut, before = train(corpus, config, tmp_path / "cut", stop_after=cut_after)
    assert (cut.exit_reason, cut.steps) == ("cancelled", cut_after)
    resumed, after = train(corpus, config, tmp_path / "cut")
    pieces = epochs(before) + epochs(after)
    assert [(e.train_loss, e.val_loss, e.losses) for e in pieces] == [
        (e.train_loss, e.val_loss, e.losses) for e in epochs(whole)
    ]
    assert resumed.best_val_loss == uncut.best_val_loss
    one, two = (
        checkpoint.read_weights(tmp_path / name / "latest" / "best.safetensors") for name in ("uncut", "cut")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_discriminators_learn_every_so_many_steps(
    corpus: Corpus, small_config: Config, tmp_path: Path
) -> None:
    config = small_config(
        adversarial__enabled=True,
        adversarial__width=4,
        adversarial__start=0.0,
        adversarial__every=3,
        training__warmup_steps=0,
    )
    task = VQTask(corpus, config, LocalWorker(tmp_path, device=CPU))
    assert task.adversary is not None

    def weights() -> Tensor:
        state = task.adversary.state_dict()["discriminators"]  # type: ignore[union-attr]
        return torch.cat([value.flatten() for value in state.values()]).clone()  # type: ignore[attr-defined]

    moved = []
    for step in range(7):
        before = weights()
        task.train_step(step, 0.1)
        moved.append(not torch.equal(before, weights()))
    assert moved == [True, False, False, True, False, False, True]


def test_a_budget_made_longer_does_not_send_them_home(
    corpus: Corpus, config: VQTrainConfig, tmp_path: Path
) -> None:
    task = VQTask(corpus, config, LocalWorker(tmp_path, device=CPU))
    assert task.adversary is not None
    assert not task.adversary.has_begun(0.49)
    task.train_step(0, 0.5)
    assert task.adversary.has_begun(0.1)
