from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_ray.prior.transformer import Transformer, rotary_table

WINDOW = 6


def make(dtype: torch.dtype = torch.float32) -> Transformer:
    torch.manual_seed(3)
    model = Transformer(
        hidden_size=24, num_layers=3, num_heads=3, dropout=0.0, window=WINDOW, usual_steps=2 * WINDOW
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(8.0)
    return model.to(dtype).eval()


def through_cache(model: Transformer, x_BSE: Tensor, chunks: list[int]) -> Tensor:
    cache = model.new_cache()
    return torch.cat([model(part, cache) for part in x_BSE.split(chunks, dim=1)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize(
    "chunks",
    [[1] * 40, [40], [3, 1, 1, 35], [WINDOW] * 6 + [4], [WINDOW + 1, 1, 17, 1, 14], [5] + [1] * 35],
    ids=["steps", "whole", "mixed", "windows", "past the window", "prompt, then steps"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-5)])
def test_cache_equals_uncached_far_past_the_window(
    chunks: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    model = make(dtype)
    x_BSE = torch.randn(2, 40, 24, dtype=dtype, generator=torch.Generator().manual_seed(1))
    whole = model(x_BSE)
    assert whole.std() > 0.1
    assert (through_cache(model, x_BSE, chunks) - whole).abs().max() < tolerance


@torch.no_grad()
def test_causal_and_sliding() -> None:
    model = make()
    model.blocks = model.blocks[:1]
    x_BSE = torch.randn(1, 20, 24)
    changed = x_BSE.clone()
    changed[:, 9] += 1.0
    differs = (model(changed) - model(x_BSE)).abs().amax(dim=(0, 2)) > 1e-6
    assert differs.nonzero().flatten().tolist() == list(range(9, 9 + WINDOW))


@torch.no_grad()
def test_only_relative_positions_matter() -> None:
    model = make(torch.float64)
    x_BSE = torch.randn(1, 30, 24, dtype=torch.float64)
    late = model.new_cache()
    late.length = 10_000_000 * WINDOW  # as if that many steps had been seen, with nothing left of them
    first = model.new_cache()
    # The first window steps of the late cache still see empty slots; three layers deep, 3 * WINDOW settle it.
    ours = torch.cat([model(x_BSE[:, s : s + 1], first) for s in range(30)], dim=1)
    theirs = torch.cat([model(x_BSE[:, s : s + 1], late) for s in range(30)], dim=1)
    assert (ours - theirs)[:, 4 * WINDOW :].abs().max() < 1e-5


def test_cache_memory_is_bounded() -> None:
    model = make()
    cache = model.new_cache()
    with torch.no_grad():
        model(torch.randn(1, 50, 24), cache)
    keys, values = cache.layer(0, torch.empty(0))
    assert cache.length == 50
    assert keys.shape == values.shape == (1, 3, WINDOW, 8)


def test_rotary_table_is_exact_at_great_positions() -> None:
    cos_SD, sin_SD = rotary_table(10_000_019, 2, 4, torch.device("cpu"))
    angle = torch.tensor(10_000_019.0, dtype=torch.float64)
    assert abs(cos_SD[0, 0] - angle.cos()) < 1e-6
    assert abs(sin_SD[0, 0] - angle.sin()) < 1e-6
    assert torch.equal(cos_SD[:, :2], cos_SD[:, 2:])


def test_dropout_is_seeded_and_off_in_eval() -> None:
    model = Transformer(hidden_size=16, num_layers=1, num_heads=2, dropout=0.5, window=4, usual_steps=8)
    x_BSE = torch.randn(1, 5, 16)
    torch.manual_seed(1)
    first, second = model(x_BSE), model(x_BSE)
    torch.manual_seed(1)
    assert torch.equal(model(x_BSE), first)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(x_BSE), model(x_BSE))
