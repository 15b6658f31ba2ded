"""Drawing windows, halves, floors and intervals, on sets whose distances are known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from distill_ray.evaluate.comparison import Amount, Cloud, Halves, interval


def cloud(points_NK: np.ndarray, per_block: int = 4, blocks_a_sound: int = 5) -> Cloud:
    block_N = np.arange(len(points_NK)) // per_block
    return Cloud(points_NK=points_NK, block_N=block_N, sound_N=block_N // blocks_a_sound)


def normal(seed: int, count: int, dimensions: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimensions))


def test_runs_of_neighbours_are_drawn_without_repetition() -> None:
    numbered = cloud(np.arange(200.0)[:, None])
    drawn = numbered.draw(Amount(count=42, run=4), np.random.default_rng(0))[:, 0]
    assert len(set(drawn)) == 42
    assert all(
        drawn[first : first + 4].tolist() == [drawn[first] + step for step in range(4)] for first in (0, 4)
    )
    assert all(value % 4 == 0 for value in drawn[::4])
    assert drawn.tolist() != sorted(drawn)
    singles = numbered.draw(Amount(count=42, run=1), np.random.default_rng(0))[:, 0]
    assert sum(after - before == 1 for before, after in pairwise(singles)) < 5
    assert numbered.draw(Amount(count=500, run=4), np.random.default_rng(0)) is numbered.points_NK
    assert numbered.run == 20


def test_a_bootstrap_draws_sounds_or_of_few_sounds_blocks() -> None:
    many, few = cloud(np.arange(200.0)[:, None]), cloud(np.arange(40.0)[:, None])
    drawn = many.resample(np.random.default_rng(0))
    assert len(drawn) == 200
    counts = np.bincount((drawn.points_NK[:, 0] // 20).astype(int), minlength=10)
    assert set(counts % 20) == {0}
    assert counts.max() > 20
    blocks = np.bincount((few.resample(np.random.default_rng(0)).points_NK[:, 0] // 4).astype(int))
    assert set(blocks % 4) == {0}


def test_the_floor_of_equal_halves_is_what_a_set_like_them_has() -> None:
    halves = Halves(cloud(normal(0, 1200)))
    like, amount = cloud(normal(1, 160)), Amount(count=160, run=4)
    random = np.random.default_rng(0)
    floors = halves.floors(amount, random)
    assert halves.frechet(like, amount, random) == pytest.approx(floors.mean(), rel=0.6)
    far = cloud(normal(2, 160) + 1)
    assert halves.frechet(far, amount, random) == pytest.approx(4, rel=0.2)
    assert halves.amount(like).count == 160
    assert halves.amount(cloud(normal(3, 900))).count == halves.windows == 600


def test_fewer_windows_have_a_higher_floor() -> None:
    halves, random = Halves(cloud(normal(0, 1200))), np.random.default_rng(0)
    floors = [halves.floors(Amount(count=count, run=4), random).mean() for count in (20, 80, 320)]
    assert floors[0] > 2 * floors[1] > 4 * floors[2]


def test_neighbours_that_are_alike_raise_the_floor_of_their_runs() -> None:
    """Blocks with a mean of their own: as many windows of fewer moments know less."""
    centres = np.repeat(normal(5, 300), 4, axis=0)
    halves = Halves(cloud(centres + 0.1 * normal(6, 1200)))
    random = np.random.default_rng(0)
    runs, singles = (halves.floors(Amount(count=80, run=run), random).mean() for run in (4, 1))
    assert runs > 1.5 * singles


def test_likeness_of_halves_and_of_something_else() -> None:
    halves, amount = Halves(cloud(normal(0, 800))), Amount(count=100, run=1)
    same = halves.likeness(None, amount, np.random.default_rng(0))
    assert same.kernel == pytest.approx(0, abs=0.02)
    assert same.coverage > 0.85
    assert same.density == pytest.approx(1, abs=0.25)
    narrow = halves.likeness(cloud(0.05 * normal(1, 100)), amount, np.random.default_rng(0))
    assert narrow.coverage < 0.4
    assert narrow.kernel > 0.05


def test_an_interval_keeps_the_value_and_the_spread_of_the_samples() -> None:
    samples = np.linspace(11, 13, 201)
    found = interval(5.0, samples)
    assert (found.low, found.high) == pytest.approx((5 - 0.95, 5 + 0.95))
    assert interval(0.5, samples).low == 0
