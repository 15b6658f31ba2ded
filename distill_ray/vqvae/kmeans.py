"""Which code is nearest, and k-means that assigns as the search will: the start of a codebook.

Shapes: N vectors, K centres, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

ITERATIONS = 10
VECTORS_PER_CENTRE = 64
"""Vectors for each centre that are looked at; more change the centres little and cost time."""


def search_terms(codebook_KD: Tensor, lookup: str) -> tuple[Tensor, Tensor]:
    """Rows [..., K, D] and offsets [..., K]: the code nearest to v is the argmax of rows · v − offsets.

    "euclidean": |v − c|² is |v|² − 2 (c · v − |c|² / 2). "cosine": the length of v does not change which row
    is nearest, so v is left as it is.
    """
    if lookup == "euclidean":
        return codebook_KD, 0.5 * codebook_KD.square().sum(-1)
    return functional.normalize(codebook_KD, dim=-1), torch.zeros_like(codebook_KD[..., 0])


def nearest(vectors_ND: Tensor, codebook_KD: Tensor, lookup: str) -> Tensor:
    """Index [N] of the code that is nearest by `lookup`; the first one of equals."""
    rows_KD, offsets_K = search_terms(codebook_KD, lookup)
    return torch.argmax(torch.addmm(-offsets_K, vectors_ND, rows_KD.T), dim=-1)


def sums_by_code(vectors_ND: Tensor, codes_N: Tensor, weights_N: Tensor, size: int) -> Tensor:
    """Weighted sum [K, D] of the vectors of each code.

    A product with the one-hot matrix, not a scatter: atomic additions on a GPU come in any order and
    would make two runs from one seed differ.
    """
    one_hot_NK = (codes_N[:, None] == torch.arange(size, device=codes_N.device)).to(vectors_ND.dtype)
    sums_KD: Tensor = one_hot_NK.T @ (vectors_ND * weights_N[:, None])
    return sums_KD


def distinct_sample(vectors_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different vectors chosen at random, [count, D].

    Digital silence gives many equal vectors, of which only one is worth a code. Where there are fewer
    than `count` different ones, the rest are copies moved by a hundredth of the vectors' spread.
    `generator` is a CPU generator, so that the choice does not depend on the device.
    """
    distinct_ND = torch.unique(vectors_ND, dim=0)
    order = torch.randperm(len(distinct_ND), generator=generator)[:count].to(vectors_ND.device)
    chosen: Tensor = distinct_ND[order]
    missing = count - len(chosen)
    if missing <= 0:
        return chosen
    again = torch.randint(len(chosen), (missing,), generator=generator).to(vectors_ND.device)
    noise = torch.randn(missing, vectors_ND.shape[1], generator=generator).to(vectors_ND)
    spread = vectors_ND.std(dim=0, correction=0).clamp(min=1e-3)
    return torch.cat([chosen, chosen[again] + 0.01 * spread * noise])


def kmeans(
    vectors_ND: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    lookup: str,
    iterations: int = ITERATIONS,
    goes_on: Callable[[], bool] = lambda: True,
) -> Tensor:
    """`size` centres [K, D] of the vectors, assigned by `lookup` and averaged at full length.

    Lloyd's iterations from a random sample of different vectors; centres left without a vector are drawn
    anew. With cosine look-up too a decoded vector is the centre itself, so its length has to be the mean
    length of its vectors and not one.

    Args:
        vectors_ND: at least one vector, float32.
        size: number of centres; may exceed the number of vectors.
        generator: CPU generator; the same state and vectors give the same centres.
        goes_on: asked before each iteration whether it is made.
    """
    assert len(vectors_ND) > 0, "k-means needs a vector"
    limit = size * VECTORS_PER_CENTRE
    if len(vectors_ND) > limit:
        chosen = torch.randperm(len(vectors_ND), generator=generator)[:limit]
        vectors_ND = vectors_ND[chosen.to(vectors_ND.device)]
    centres_KD = distinct_sample(vectors_ND, size, generator)
    for _ in range(iterations):
        if not goes_on():
            break
        sums_KD, counts_K = _assignment(vectors_ND, centres_KD, lookup)
        empty_K = counts_K == 0
        centres_KD = sums_KD / counts_K.clamp(min=1)[:, None]
        if empty := int(empty_K.sum()):
            centres_KD[empty_K] = distinct_sample(vectors_ND, empty, generator)
    return centres_KD


def _assignment(vectors_ND: Tensor, centres_KD: Tensor, lookup: str) -> tuple[Tensor, Tensor]:
    """Sums [K, D] and counts [K] of the vectors nearest to each centre, in blocks of bounded memory."""
    size = len(centres_KD)
    sums_KD, counts_K = torch.zeros_like(centres_KD), centres_KD.new_zeros(size)
    for block in torch.split(vectors_ND, max(1, 2**25 // size)):
        codes = nearest(block, centres_KD, lookup)
        ones = block.new_ones(len(block))
        sums_KD += sums_by_code(block, codes, ones, size)
        counts_K.scatter_add_(0, codes, ones)
    return sums_KD, counts_K
