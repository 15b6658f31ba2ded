from __future__ import annotations

import torch

from distill_ray.vqvae.kmeans import distinct_sample, kmeans, nearest, sums_by_code


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_nearest_equals_a_naive_float64_search() -> None:
    vectors, codebook = torch.randn(500, 8, generator=seeded()), 3 * torch.randn(64, 8, generator=seeded())
    v = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    c = codebook.double() / codebook.double().norm(dim=1, keepdim=True)
    naive = (v[:, None] - c[None]).square().sum(-1).argmin(1)
    assert torch.equal(nearest(vectors, codebook, "cosine"), naive)


def test_sums_by_code_equals_a_loop() -> None:
    vectors, weights = torch.randn(50, 3, generator=seeded()), torch.rand(50, generator=seeded())
    codes = torch.randint(0, 5, (50,), generator=seeded())
    loop = torch.stack([(vectors * weights[:, None])[codes == code].sum(0) for code in range(6)])
    torch.testing.assert_close(sums_by_code(vectors, codes, weights, 6), loop)


def test_distinct_sample_takes_each_vector_once() -> None:
    vectors = torch.cat([torch.zeros(1000, 2), torch.arange(1.0, 5.0)[:, None].expand(4, 2)])
    chosen = distinct_sample(vectors, 5, seeded())
    assert sorted(chosen[:, 0].tolist()) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_distinct_sample_fills_up_with_moved_copies() -> None:
    chosen = distinct_sample(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), 20, seeded())
    assert chosen.shape == (20, 2)
    assert len(torch.unique(chosen, dim=0)) == 20
    distance = torch.minimum((chosen[:, 0] - 1).abs(), (chosen[:, 0] - 3).abs())
    assert distance.max() < 0.05


def test_kmeans_finds_clusters_with_their_lengths() -> None:
    directions = torch.nn.functional.normalize(torch.randn(16, 8, generator=seeded()), dim=1)
    lengths = torch.linspace(1.0, 4.0, 16)
    centres = directions * lengths[:, None]
    vectors = centres.repeat(100, 1) + 0.01 * torch.randn(1600, 8, generator=seeded())
    found = kmeans(vectors, 32, seeded(), lookup="cosine")
    error = torch.cdist(centres, found).min(dim=1).values
    assert error.max() < 0.05
    assert torch.equal(found, kmeans(vectors, 32, seeded(), lookup="cosine"))


def test_kmeans_takes_fewer_vectors_than_centres() -> None:
    found = kmeans(torch.ones(3, 4), 16, seeded(), lookup="euclidean")
    assert found.shape == (16, 4)
    assert found.isfinite().all()
    assert (found - 1).abs().max() < 0.1


def test_euclidean_search_is_that_of_distances() -> None:
    vectors, codebook = torch.randn(500, 8, generator=seeded()), 3 * torch.randn(64, 8, generator=seeded())
    naive = torch.cdist(vectors.double(), codebook.double()).argmin(1)
    assert torch.equal(nearest(vectors, codebook, "euclidean"), naive)


def test_euclidean_kmeans_tells_lengths_apart() -> None:
    """Two clusters in one direction: by cosine one centre would stand for both."""
    short, long = torch.tensor([1.0, 1.0]), torch.tensor([5.0, 5.0])
    noise = 0.01 * torch.randn(200, 2, generator=seeded())
    centres = kmeans(torch.cat([short + noise, long + noise]), 2, seeded(), lookup="euclidean")
    found = centres[centres[:, 0].argsort()]
    torch.testing.assert_close(found, torch.stack([short, long]), atol=0.01, rtol=0)
