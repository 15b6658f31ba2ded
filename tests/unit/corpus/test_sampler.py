from __future__ import annotations

import numpy as np
import pytest

from distill_ray.corpus.sampler import Window, WindowSampler, iter_windows


def test_batches_depend_on_seed_and_step_alone() -> None:
    sampler = WindowSampler([1_000, 50, 300], 100, seed=7)
    later = sampler.batch(5, 16)
    sampler.batch(0, 3)
    again = WindowSampler(np.array([1_000, 50, 300]), 100, seed=7).batch(5, 16)
    np.testing.assert_array_equal(later.file_B, again.file_B)
    np.testing.assert_array_equal(later.start_B, again.start_B)
    for other in (sampler.batch(6, 16), WindowSampler([1_000, 50, 300], 100, seed=8).batch(5, 16)):
        assert (later.start_B != other.start_B).any()


def test_ranks_take_slices_of_one_global_batch() -> None:
    batch = WindowSampler([1_000, 50, 300], 100, seed=0).batch(3, 8)
    parts = [batch[rank * 4 : (rank + 1) * 4] for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate([part.start_B for part in parts]), batch.start_B)
    np.testing.assert_array_equal(np.concatenate([part.file_B for part in parts]), batch.file_B)


def test_chances_follow_durations_and_starts_are_even() -> None:
    sampler = WindowSampler([700, 50, 250], 100, seed=0)
    assert sampler.total_samples == 1_050
    batch = sampler.batch(0, 105_000)
    shares = np.bincount(batch.file_B) / 105_000
    np.testing.assert_allclose(shares, [700 / 1_050, 100 / 1_050, 250 / 1_050], atol=0.005)
    for file, starts in [(0, 601), (1, 50), (2, 151)]:
        mine = batch.start_B[batch.file_B == file]
        assert (mine.min(), mine.max()) == (0, starts - 1)
        assert abs(mine.mean() / ((starts - 1) / 2) - 1) < 0.02


def test_a_file_of_exactly_a_window_and_very_long_ones() -> None:
    batch = WindowSampler([100], 100, seed=0).batch(0, 50)
    assert set(batch.start_B) == {0}
    day = 86_400 * 44_100
    long = WindowSampler([day] * 30, 32_768, seed=0).batch(0, 1_000)
    assert long.start_B.min() >= 0
    assert long.start_B.max() <= day - 32_768
    assert len(set(long.file_B)) == 30


def test_validation_windows_cover_each_file_once() -> None:
    assert list(iter_windows([250, 100, 30], 100)) == [
        Window(file=0, start=0, valid=100),
        Window(file=0, start=100, valid=100),
        Window(file=0, start=200, valid=50),
        Window(file=1, start=0, valid=100),
        Window(file=2, start=0, valid=30),
    ]


@pytest.mark.parametrize("limit", [1, 2, 7, 50, 500])
def test_a_limit_spreads_windows_over_the_files(limit: int) -> None:
    everything = list(iter_windows([1_000] * 10, 100))
    some = list(iter_windows([1_000] * 10, 100, limit))
    assert len(some) == min(limit, 100)
    assert len({(window.file, window.start) for window in some}) == len(some)
    assert set(some) <= set(everything)
    assert len({window.file for window in some}) == min(limit, 10)


def test_no_files_no_windows() -> None:
    assert list(iter_windows([], 100)) == []
