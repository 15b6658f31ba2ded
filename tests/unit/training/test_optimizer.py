from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distill_ray.training.optimizer import Optimizer, lr_scale, uses_bf16


def build(module: nn.Module, **changes: object) -> Optimizer:
    settings = {"lr": 0.1, "weight_decay": 0.0, "clip_norm": 1.0, **changes}
    return Optimizer(module, betas=(0.8, 0.99), **settings)  # type: ignore[arg-type]


def test_a_step_with_nan_changes_nothing_and_is_counted() -> None:
    module = nn.Linear(3, 2)
    optimizer = build(module)
    (module(torch.ones(1, 3)).sum()).backward()
    optimizer.step(1.0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    moments = {k: v.clone() for k, v in optimizer.adamw.state[module.weight].items()}
    (module(torch.ones(1, 3)).sum() * float("nan")).backward()
    norm = optimizer.step(1.0)
    assert not torch.isfinite(norm)
    assert int(optimizer.skipped) == 1
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in optimizer.adamw.state[module.weight].items():
        assert torch.equal(value, moments[name])
    (module(torch.ones(1, 3)).sum()).backward()
    optimizer.step(1.0)
    assert int(optimizer.skipped) == 1
    assert not torch.equal(module.weight, before["weight"])


def test_the_gradient_is_clipped_and_the_norm_is_that_before() -> None:
    module = nn.Linear(1, 1, bias=False)
    optimizer = build(module, clip_norm=0.5)
    (module(torch.full((1, 1), 100.0)).sum()).backward()
    assert float(optimizer.step(1.0)) == pytest.approx(100.0)
    # Adam's first moment keeps (1 - beta1) of the clipped gradient.
    assert float(optimizer.adamw.state[module.weight]["exp_avg"]) == pytest.approx(0.2 * 0.5, rel=1e-4)


def test_only_matrices_decay() -> None:
    module = nn.Linear(3, 2)
    optimizer = build(module, weight_decay=0.5)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.fill_(1.0)
    (module(torch.zeros(1, 3)) * 0.0).sum().backward()
    optimizer.step(1.0)
    assert torch.allclose(module.weight, torch.full((2, 3), 1.0 - 0.1 * 0.5))
    assert torch.allclose(module.bias, torch.ones(2))


def test_the_head_has_a_rate_of_its_own() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = build(module, head=module[1].parameters(), head_rate=0.25, clip_norm=1e9)
    before = [parameter.clone() for parameter in module.parameters()]
    module(torch.randn(4, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step(0.5)
    # Adam's first step has the length of the rate in every element.
    for rate, parameter, old in zip((0.05, 0.05, 0.0125, 0.0125), module.parameters(), before, strict=True):
        assert torch.allclose((parameter - old).abs(), torch.full_like(old, rate), rtol=1e-3)


def test_a_head_at_the_same_rate_leaves_checkpoints_of_before_readable() -> None:
    module = nn.Linear(3, 2)
    before = build(module).state_dict()
    build(module, head=[module.weight]).load_state_dict(before)


def test_forgotten_rows_have_no_moments() -> None:
    book = nn.Parameter(torch.ones(2, 3, 4))
    module = nn.ParameterList([book])
    optimizer = build(module)
    book.square().sum().backward()
    optimizer.step(1.0)
    rows = torch.tensor([[True, False, False], [False, False, True]])
    optimizer.forget_rows(book, rows)
    moment = optimizer.adamw.state[book]["exp_avg"]
    assert (moment[rows] == 0).all()
    assert (moment[~rows] > 0).all()
    optimizer.forget_rows(nn.Parameter(torch.ones(2, 3)), torch.ones(2, 3, dtype=torch.bool))


def test_state_comes_back() -> None:
    def one(module: nn.Module, optimizer: Optimizer) -> None:
        module(torch.ones(1, 3)).square().sum().backward()
        optimizer.step(0.5)

    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    optimizer = build(module)
    one(module, optimizer)
    other = nn.Linear(3, 2)
    other.load_state_dict(module.state_dict())
    resumed = build(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    one(module, optimizer)
    one(other, resumed)
    assert torch.equal(module.weight, other.weight)


@pytest.mark.parametrize(
    ("step", "fraction", "scale"),
    [
        (0, 0.0, 1 / 300),
        (149, 0.0, 0.5),
        (299, 0.0, 1.0),
        (10_000, 0.5, 0.51),
        (10_000, 1.0, 0.02),
        (5, 0.025, 0.5 * 0.99849),  # a short run is warm after a twentieth of its budget
    ],
)
def test_schedule(step: int, fraction: float, scale: float) -> None:
    assert lr_scale(step, fraction, warmup_steps=300) == pytest.approx(scale, rel=1e-3)


def test_precision() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [uses_bf16(p, d) for p in ("auto", "bf16", "fp32") for d in (cpu, gpu)] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
