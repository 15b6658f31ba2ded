"""The distances against closed forms, brute force and known sets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distill_ray.evaluate.distance import (
    Gaussian,
    coverage_and_density,
    frechet_distance,
    kernel_distance,
    kernel_width,
)


def normal(seed: int, count: int, dimensions: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimensions))


def test_frechet_distance_is_that_of_the_closed_forms() -> None:
    zero = Gaussian(mean_D=np.zeros(2), covariance_DD=np.diag([4.0, 9.0]))
    moved = Gaussian(mean_D=np.array([3.0, 4.0]), covariance_DD=np.diag([4.0, 9.0]))
    wider = Gaussian(mean_D=np.zeros(2), covariance_DD=np.diag([1.0, 25.0]))
    assert frechet_distance(zero, zero) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(zero, moved) == pytest.approx(25)
    assert frechet_distance(zero, wider) == pytest.approx((2 - 1) ** 2 + (3 - 5) ** 2)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = Gaussian(mean_D=np.zeros(2), covariance_DD=turn @ zero.covariance_DD @ turn.T)
    # Of 2 × 2 matrices: tr √A = √(tr A + 2 √det A), here of A = √S T √S.
    product = np.sqrt(zero.covariance_DD) @ turned.covariance_DD @ np.sqrt(zero.covariance_DD)
    shared = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    assert frechet_distance(zero, turned) == pytest.approx(26 - 2 * shared)
    assert frechet_distance(turned, zero) == pytest.approx(26 - 2 * shared)


def test_covariances_are_shrunk_as_ledoit_and_wolf_have_it() -> None:
    points_ND = normal(0, 12, 5) @ np.diag([3.0, 1.0, 1.0, 0.5, 0.1])
    fitted = Gaussian.fit(points_ND)
    centred = points_ND - points_ND.mean(0)
    sample = centred.T @ centred / 12
    scale = np.trace(sample) / 5
    distance = np.linalg.norm(sample - scale * np.eye(5)) ** 2
    error = sum(np.linalg.norm(np.outer(row, row) - sample) ** 2 for row in centred) / 12**2
    weight = min(error, distance) / distance
    assert 0 < weight < 1
    expected = (1 - weight) * sample + weight * scale * np.eye(5)
    np.testing.assert_allclose(fitted.covariance_DD, expected, rtol=1e-9)
    np.testing.assert_allclose(fitted.mean_D, points_ND.mean(0))


def test_many_windows_are_hardly_shrunk_and_fewer_than_dimensions_stay_finite() -> None:
    many = normal(1, 20_000, 4) * [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_allclose(np.diag(Gaussian.fit(many).covariance_DD), many.var(0), rtol=5e-3)
    few = Gaussian.fit(normal(2, 6, 40))
    assert np.linalg.eigvalsh(few.covariance_DD).min() > 0
    assert math.isfinite(frechet_distance(few, Gaussian.fit(normal(3, 6, 40))))
    same = Gaussian.fit(np.ones((8, 3)))
    assert frechet_distance(same, same) == 0


def test_kernel_distance_is_the_mean_over_pairs_without_the_own() -> None:
    one, other, width = normal(4, 7), normal(5, 9) + 0.5, 1.7

    def kernel(left: np.ndarray, right: np.ndarray) -> float:
        return math.exp(-float(((left - right) ** 2).sum()) / (2 * width**2))

    within = np.mean([kernel(one[i], one[j]) for i in range(7) for j in range(7) if i != j])
    within += np.mean([kernel(other[i], other[j]) for i in range(9) for j in range(9) if i != j])
    across = np.mean([kernel(left, right) for left in one for right in other])
    assert kernel_distance(one, other, width) == pytest.approx(within - 2 * across, rel=1e-9)


def test_kernel_distance_of_equal_distributions_is_zero_in_the_mean() -> None:
    width = kernel_width(normal(6, 500))
    found = [kernel_distance(normal(seed, 40), normal(seed + 100, 40), width) for seed in range(60)]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(60)
    assert min(found) < 0 < max(found)
    assert kernel_distance(normal(0, 40), normal(1, 40) + 1, width) > 5 * np.std(found)


def test_kernel_width_is_the_median_distance() -> None:
    points = normal(7, 50)
    pairs = [np.linalg.norm(points[i] - points[j]) for i in range(50) for j in range(i)]
    assert kernel_width(points) == pytest.approx(np.median(pairs))
    assert kernel_width(np.ones((5, 2))) > 0


def test_coverage_and_density_are_naeem_s() -> None:
    reference, points = normal(8, 30), normal(9, 30) + 0.7
    radius = [sorted(np.linalg.norm(reference - row, axis=1))[5] for row in reference]
    inside = np.array(
        [
            [np.linalg.norm(point - row) <= r for row, r in zip(reference, radius, strict=True)]
            for point in points
        ]
    )
    found = coverage_and_density(points, reference)
    assert found.coverage == pytest.approx(inside.any(0).mean())
    assert found.density == pytest.approx(inside.sum() / (5 * 30))
    assert coverage_and_density(reference, reference).coverage == 1
    assert coverage_and_density(points + 100, reference).density == 0
    one_place = coverage_and_density(np.repeat(reference[:1], 30, axis=0), reference)
    assert one_place.coverage < 0.5
