"""Tiny priors, and synthetic code sources that they can learn in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_ray.prior import CodePrior, PriorConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_config(**changes: Any) -> PriorConfig:
    values: dict[str, Any] = {
        "codebook_size": 16,
        "num_quantizers": 3,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "context_frames": 8,
        "dropout": 0.0,
        **changes,
    }
    return PriorConfig(**values)


@pytest.fixture
def make_prior() -> Callable[..., CodePrior]:
    """A prior in eval mode whose weights are large enough that every input matters."""

    def make(**changes: Any) -> CodePrior:
        torch.manual_seed(7)
        prior = CodePrior(tiny_config(**changes)).eval()
        with torch.no_grad():
            for weight in prior.parameters():
                if weight.dim() > 1:
                    weight.mul_(6.0)
        return prior

    return make


def markov_codes(count: int, frames: int, seed: int, *, size: int = 16, levels: int = 2) -> list[Tensor]:
    """Sequences of one random source: level 0 is a Markov chain, finer levels depend on the coarser one."""
    table = np.random.default_rng(12345).dirichlet(np.full(size, 0.3), size=(levels, size)).cumsum(axis=-1)
    rng = np.random.default_rng(seed)
    codes = np.zeros((count, levels, frames), dtype=np.int16)
    state = rng.integers(size, size=count)
    for t in range(frames):
        above = state
        for q in range(levels):
            above = (table[q, above] < rng.random(count)[:, None]).sum(axis=1).clip(max=size - 1)
            codes[:, q, t] = above
            state = above if q == 0 else state
    return [torch.from_numpy(sequence) for sequence in codes]


def train(prior: CodePrior, codes_NQT: Tensor, *, steps: int, batch: int, lr: float = 3e-3) -> None:
    """Plain AdamW on whole sequences."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=lr, betas=(0.9, 0.95))
    prior.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20) * (1.0 - step / steps)
        rows = torch.randint(len(codes_NQT), (batch,), generator=generator)
        optimizer.zero_grad()
        prior(codes_NQT[rows]).loss.backward()
        optimizer.step()
    prior.eval()


@pytest.fixture
def source() -> Callable[..., list[Tensor]]:
    return markov_codes


@pytest.fixture
def fit() -> Callable[..., None]:
    return train
