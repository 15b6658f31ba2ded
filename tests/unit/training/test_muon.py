from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import Corpus
from distill_ray.training import muon as module
from distill_ray.training.checkpoint import read_state, write_state
from distill_ray.training.muon import Muon, orthogonalised
from distill_ray.training.optimizer import Optimizer
from distill_ray.training.vqvae import VQTask
from distill_ray.training.worker import LocalWorker

SHAPES = [(24, 40), (40, 24), (16, 16)]
ONE, YES, NO = torch.tensor(1.0), torch.tensor(True), torch.tensor(False)


def matrices(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in (*SHAPES, *SHAPES)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_orthogonalised_keeps_singular_vectors(shape: tuple[int, int], scale: float) -> None:
    given_NRC = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    # Singular values from 1 to 0.05: what four steps bring near one.
    left, _, right = torch.linalg.svd(given_NRC, full_matrices=False)
    values = torch.linspace(1.0, 0.05, min(shape))
    made_NRC = orthogonalised(scale * (left * values) @ right)
    found_NRR = left.mT @ made_NRC @ right.mT
    diagonal = found_NRR.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.43
    assert diagonal.max() < 1.57
    assert (found_NRR - torch.diag_embed(diagonal)).abs().max() < 1e-4


@pytest.mark.parametrize("noise", [0.0, 1e-4, 5e-4, 2e-3])
def test_no_update_of_bf16_is_longer_than_others(noise: float) -> None:
    """Nearly all energy in one direction, where rounding puts its singular value above one."""
    generator = torch.Generator().manual_seed(0)
    left, right, rest_NRC = (
        torch.randn(64, *shape, generator=generator) for shape in ((24, 1), (1, 40), (24, 40))
    )
    one_NRC = left @ right
    one_NRC, rest_NRC = (each / each.norm(dim=(1, 2), keepdim=True) for each in (one_NRC, rest_NRC))
    given_NRC = (1.0 - noise) ** 0.5 * one_NRC + noise**0.5 * rest_NRC
    made_NRC = orthogonalised(given_NRC.bfloat16()).float()
    assert made_NRC.norm(dim=(1, 2)).max() < 1.6 * 24**0.5
    assert torch.linalg.matrix_norm(made_NRC, 2).max() < 1.7


def test_nothing_becomes_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


def test_with_its_polynomial_it_is_torch_s_muon_but_for_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COEFFICIENTS", ((3.4445, -4.7750, 2.0315),) * 5)
    own, other = ([nn.Parameter(each) for each in matrices()] for _ in range(2))
    start = copy.deepcopy(own)
    muon = Muon(own, lr=0.02, weight_decay=0.1)
    torchs = torch.optim.Muon(other, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for one, two, gradient in zip(own, other, matrices(step + 1), strict=True):
            one.grad, two.grad = gradient, gradient.clone()
        muon.step(1.0, ONE, YES)
        torchs.step()
    for one, two, before in zip(own, other, start, strict=True):
        moved = float((two - before).norm().detach())
        assert float((one - two).norm().detach()) < 0.02 * moved  # torch's products are bfloat16
        assert moved > 0.1


def test_an_update_is_as_long_as_adam_s() -> None:
    for matrix in matrices():
        before = matrix.clone()
        matrix.grad = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(9))
        Muon([matrix], lr=0.5, weight_decay=0.0).step(0.1, ONE, YES)
        # 0.2 for singular values of one, of which there are as many as the shorter side has.
        assert float((matrix - before).square().mean().sqrt()) == pytest.approx(0.05 * 0.2, rel=0.25)


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_an_unsound_step_moves_nothing(norm: float) -> None:
    own = matrices()
    muon = Muon(own, lr=0.1, weight_decay=0.1)
    for each in own:
        each.grad = torch.ones_like(each)
    muon.step(1.0, ONE, YES)
    before, momenta = [each.clone() for each in own], copy.deepcopy(muon.state_dict())
    own[0].grad = torch.full_like(own[0], math.nan)
    own[1].grad = torch.full_like(own[1], math.inf)
    muon.step(1.0, torch.tensor(norm), NO)
    assert all(torch.equal(one, two) for one, two in zip(own, before, strict=True))
    for one, two in zip(muon.state_dict()["momenta"], momenta["momenta"], strict=True):
        assert torch.allclose(one, 0.95 * two, rtol=1e-6)
    assert muon.state_dict()["usual_norm"] == momenta["usual_norm"] == 1.0


def test_a_gradient_that_is_far_longer_than_usual_is_clipped() -> None:
    matrix = torch.zeros(4, 6)
    muon = Muon([matrix], lr=0.1, weight_decay=0.0)
    one = torch.zeros(4, 6)
    one[0, 0] = 1.0
    for _ in range(50):
        matrix.grad = one.clone()
        muon.step(1.0, torch.tensor(1.0), YES)
    ((before,),) = copy.deepcopy(muon.state_dict()["momenta"])
    assert float(before[0, 0]) == pytest.approx((1 - 0.95**50) / 0.05, rel=1e-4)
    matrix.grad = torch.zeros(4, 6)
    matrix.grad[1, 1] = 100.0
    muon.step(1.0, torch.tensor(100.0), YES)
    ((after,),) = muon.state_dict()["momenta"]
    assert float(after[1, 1]) == pytest.approx(3.0, rel=1e-4)
    assert float(after[0, 0]) == pytest.approx(0.95 * float(before[0, 0]), rel=1e-4)
    assert float(muon.state_dict()["usual_norm"]) == pytest.approx(1.02, rel=1e-4)


def test_the_rate_falls_with_the_root_of_the_steps(
    corpus: Corpus, small_config: Callable[..., VQTrainConfig], tmp_path: Path
) -> None:
    def moved(step: int) -> float:
        worker = LocalWorker(tmp_path, device=torch.device("cpu"), listener=lambda event: None)
        task = VQTask(corpus, small_config(training__weight_decay=0.0), worker)
        matrix = task.model.hidden_matrices()[0]
        before = matrix.detach().clone()
        batch = task.batches.batch(0)
        task.batches.batch = lambda _: batch  # type: ignore[method-assign]
        task.train_step(step, 0.05)
        return float((matrix.detach() - before).norm())

    assert moved(1_000) == moved(100)
    assert moved(4_000) == pytest.approx(moved(100) / 2, rel=1e-4)
    assert moved(100_000) == pytest.approx(moved(100) / 10, rel=1e-4)


def build(linear: nn.Linear, *, muon_rate: float = 2.0) -> Optimizer:
    return Optimizer(
        linear,
        lr=0.1,
        betas=(0.8, 0.99),
        weight_decay=0.1,
        clip_norm=1.0,
        matrices=[linear.weight],
        muon_rate=muon_rate,
    )


def muon_state(optimizer: Optimizer) -> dict[str, object]:
    assert optimizer.muon is not None
    return optimizer.muon.state_dict()


def test_state_comes_back_and_is_forgotten(tmp_path: Path) -> None:
    def trained(linear: nn.Linear, optimizer: Optimizer, steps: int) -> None:
        for step in range(steps):
            linear(torch.full((2, 3), 1.0 + step)).square().sum().backward()
            optimizer.step(0.5)

    torch.manual_seed(0)
    one = nn.Linear(3, 2)
    optimizer = build(one)
    trained(one, optimizer, 2)
    other = copy.deepcopy(one)
    resumed = build(other)
    # As after short gradients, so that the clip is of the state.
    optimizer.load_state_dict(
        {
            **optimizer.state_dict(),
            "muon": {**muon_state(optimizer), "usual_norm": torch.tensor(1e-3)},
        }
    )
    write_state(tmp_path / "state.pt", {"optimizer": optimizer.state_dict()})
    resumed.load_state_dict(read_state(tmp_path / "state.pt", torch.device("cpu"))["optimizer"])
    trained(one, optimizer, 2)
    trained(other, resumed, 2)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
    kept = muon_state(optimizer)
    assert all(momentum.any() for momentum in kept["momenta"])
    optimizer.forget()
    assert not any(momentum.any() for momentum in kept["momenta"])
    assert muon_state(optimizer)["usual_norm"] == 0.0


def test_each_parameter_of_a_codec_has_one_optimizer(
    corpus: Corpus, small_config: Callable[..., VQTrainConfig], tmp_path: Path
) -> None:
    worker = LocalWorker(tmp_path, device=torch.device("cpu"), listener=lambda event: None)
    task = VQTask(corpus, small_config(), worker)
    model, optimizer = task.model, task.optimizer
    hidden = {id(matrix) for matrix in model.hidden_matrices()}
    adams = {id(each) for group in optimizer.adamw.param_groups for each in group["params"]}
    names = {name for name, value in model.named_parameters() if id(value) in hidden}
    assert names == {
        *(
            f"{side}.{part}.0.{layer}.weight"
            for side in ("encoder", "decoder")
            for part in ("fine", "coarse")
            for layer in ("expand", "contract")
        ),
        *("encoder.down.weight", "encoder.project.weight", "decoder.embed.weight", "decoder.up.weight"),
    }
    assert not hidden & adams
    assert hidden | adams == {id(value) for value in model.parameters() if value.requires_grad}


def test_a_rate_of_zero_leaves_all_to_adamw() -> None:
    optimizer = build(nn.Linear(3, 2), muon_rate=0.0)
    assert optimizer.muon is None
    assert sum(len(group["params"]) for group in optimizer.adamw.param_groups) == 2
    assert set(optimizer.state_dict()) == {"adamw", "skipped"}
