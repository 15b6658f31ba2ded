"""The residual quantiser (`quantizer.py`) with the whole chain of levels in one kernel, and its statistics.

A vector meets the levels one after the other without leaving its program; only the vectors that were looked
up, the codes and what the last level left over go to memory. Backward runs the chain the other way, adding
each level's decoded vector back to what was left. Products are sums of three TF32 ones, which is float32
to within two bits.

Shapes: N vectors, L latent channels, Q levels, D code dimensions, K codes, P programs; DP and LP are D and L
rounded up to what a block can hold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from distill_ray.vqvae.kmeans import search_terms

_VECTORS = 16  # for one program: few enough that a batch of 48 windows keeps every multiprocessor busy
_CODES = 128  # compared at once


class Chain(NamedTuple):
    """What a forward pass gives: decoded sum [N, L], codes int64 [Q, N], looked-up vectors [Q, N, D], and the
    sum of squares of vector − code over the levels in use, twice: `commitment` moves vectors, `codebook`
    codes.
    """

    total_NL: Tensor
    codes_QN: Tensor
    vectors_QND: Tensor
    commitment: Tensor
    codebook: Tensor


@triton.jit
def _matrix(w_ptr, level, row, rows, row_stride, column, columns, column_stride):
    """The matrix [rows, columns] of a level, either way round, zeros where the blocks are larger."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    at = level * rows * columns + row[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(w_ptr + at, mask=mask, other=0.0)


@triton.jit
def _chain(
    latent_ptr, depth_ptr, in_ptr, in_bias_ptr, out_ptr, out_bias_ptr, codes_ptr, rows_ptr, offsets_ptr,
    total_ptr, left_ptr, found_ptr, vectors_ptr, squares_ptr,
    count, frames, channels, dim,
    LEVELS: tl.constexpr, SIZE: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    DP: tl.constexpr, LP: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    d, channel, k = tl.arange(0, DP), tl.arange(0, LP), tl.arange(0, BK)
    real = n < count
    place_NL = n[:, None].to(tl.int64) * channels + channel[None, :]
    mask_NL = real[:, None] & (channel < channels)[None, :]
    mask_ND = real[:, None] & (d < dim)[None, :]
    left_NL = tl.load(latent_ptr + place_NL, mask=mask_NL, other=0.0).to(tl.float32)
    total_NL = tl.zeros([BN, LP], tl.float32)
    depth_N = tl.load(depth_ptr + n // frames, mask=real, other=0)
    squares_N = tl.zeros([BN], tl.float32)
    for level in range(LEVELS):
        in_LD = _matrix(in_ptr, level, channel, channels, 1, d, dim, channels)
        vector_ND = tl.dot(left_NL, in_LD, input_precision="tf32x3")
        vector_ND += tl.load(in_bias_ptr + level * dim + d, mask=d < dim, other=0.0)[None, :]
        best_N = tl.full([BN], float("-inf"), tl.float32)
        found_N = tl.zeros([BN], tl.int32)
        for first in range(0, SIZE, BK):
            code = first + k
            at_DK = (level * SIZE + code)[None, :] * dim + d[:, None]
            mask_DK = (code < SIZE)[None, :] & (d < dim)[:, None]
            row_DK = tl.load(rows_ptr + at_DK, mask=mask_DK, other=0.0)
            offset_K = tl.load(offsets_ptr + level * SIZE + code, mask=code < SIZE, other=float("inf"))
            likeness_NK = tl.dot(vector_ND, row_DK, input_precision="tf32x3") - offset_K[None, :]
            most_N = tl.max(likeness_NK, axis=1)
            where_N = first + tl.argmax(likeness_NK, axis=1, tie_break_left=True)
            # of equals the first, as torch.argmax has it
            found_N = tl.where(most_N > best_N, where_N, found_N)
            best_N = tl.maximum(best_N, most_N)
        code_ND = tl.load(
            codes_ptr + (level * SIZE + found_N)[:, None] * dim + d[None, :], mask=mask_ND, other=0.0
        )
        used_N = depth_N > level
        apart_ND = vector_ND - code_ND
        squares_N += tl.where(used_N, tl.sum(tl.where(mask_ND, apart_ND * apart_ND, 0.0), axis=1), 0.0)
        out_DL = _matrix(out_ptr, level, d, dim, 1, channel, channels, dim)
        decoded_NL = tl.dot(code_ND, out_DL, input_precision="tf32x3")
        bias_L = tl.load(out_bias_ptr + level * channels + channel, mask=channel < channels, other=0.0)
        decoded_NL += bias_L[None, :]
        total_NL += tl.where(used_N[:, None], decoded_NL, 0.0)
        left_NL -= decoded_NL
        tl.store(found_ptr + level * count + n, found_N.to(tl.int64), mask=real)
        tl.store(vectors_ptr + (level * count + n)[:, None] * dim + d[None, :], vector_ND, mask=mask_ND)
    tl.store(total_ptr + place_NL, total_NL, mask=mask_NL)
    tl.store(left_ptr + place_NL, left_NL, mask=mask_NL)
    tl.store(squares_ptr + tl.program_id(0), tl.sum(tl.where(real, squares_N, 0.0), axis=0))


@triton.jit
def _chain_backward(
    grad_total_ptr, grad_squares_ptr, depth_ptr, in_ptr, out_ptr, out_bias_ptr, codes_ptr,
    left_ptr, found_ptr, vectors_ptr,
    grad_latent_ptr, grad_in_ptr, grad_in_bias_ptr, grad_out_ptr, grad_out_bias_ptr,
    count, frames, channels, dim,
    LEVELS: tl.constexpr, SIZE: tl.constexpr, BN: tl.constexpr, DP: tl.constexpr, LP: tl.constexpr,
):  # fmt: skip
    """Gradients of the latents, and of each level's projections the part of this program's vectors."""
    program = tl.program_id(0)
    n = program * BN + tl.arange(0, BN)
    d, channel = tl.arange(0, DP), tl.arange(0, LP)
    real = n < count
    place_NL = n[:, None].to(tl.int64) * channels + channel[None, :]
    mask_NL = real[:, None] & (channel < channels)[None, :]
    mask_ND = real[:, None] & (d < dim)[None, :]
    mask_DL = (d < dim)[:, None] & (channel < channels)[None, :]
    grad_total_NL = tl.load(grad_total_ptr + place_NL, mask=mask_NL, other=0.0)
    left_NL = tl.load(left_ptr + place_NL, mask=mask_NL, other=0.0)
    depth_N = tl.load(depth_ptr + n // frames, mask=real, other=0)
    twice = 2.0 * tl.load(grad_squares_ptr)
    grad_NL = tl.zeros([BN, LP], tl.float32)
    for step in range(LEVELS):
        level = LEVELS - 1 - step
        used_N = (depth_N > level) & real
        found_N = tl.load(found_ptr + level * count + n, mask=real, other=0)
        code_ND = tl.load(
            codes_ptr + (level * SIZE + found_N)[:, None] * dim + d[None, :], mask=mask_ND, other=0.0
        )
        at_ND = (level * count + n)[:, None] * dim + d[None, :]
        vector_ND = tl.load(vectors_ptr + at_ND, mask=mask_ND, other=0.0)
        out_DL = _matrix(out_ptr, level, d, dim, 1, channel, channels, dim)
        out_LD = _matrix(out_ptr, level, channel, channels, dim, d, dim, 1)
        in_DL = _matrix(in_ptr, level, d, dim, channels, channel, channels, 1)
        bias_L = tl.load(out_bias_ptr + level * channels + channel, mask=channel < channels, other=0.0)
        left_NL += tl.dot(code_ND, out_DL, input_precision="tf32x3") + bias_L[None, :]
        left_NL = tl.where(mask_NL, left_NL, 0.0)
        decoded_grad_NL = tl.where(used_N[:, None], grad_total_NL, 0.0) - grad_NL
        vector_grad_ND = tl.dot(decoded_grad_NL, out_LD, input_precision="tf32x3")
        vector_grad_ND += tl.where(used_N[:, None], twice * (vector_ND - code_ND), 0.0)
        grad_NL += tl.dot(vector_grad_ND, in_DL, input_precision="tf32x3")
        part = program * LEVELS + level
        at_DL = (part * dim + d)[:, None] * channels + channel[None, :]
        out_part_DL = tl.dot(tl.trans(code_ND), decoded_grad_NL, input_precision="tf32x3")
        in_part_DL = tl.dot(tl.trans(vector_grad_ND), left_NL, input_precision="tf32x3")
        tl.store(grad_out_ptr + at_DL, out_part_DL, mask=mask_DL)
        tl.store(grad_in_ptr + at_DL, in_part_DL, mask=mask_DL)
        bias_part_L = tl.sum(decoded_grad_NL, axis=0)
        tl.store(grad_out_bias_ptr + part * channels + channel, bias_part_L, mask=channel < channels)
        tl.store(grad_in_bias_ptr + part * dim + d, tl.sum(vector_grad_ND, axis=0), mask=d < dim)
    tl.store(grad_latent_ptr + place_NL, grad_NL, mask=mask_NL)


@triton.jit
def _statistics(
    found_ptr, vectors_ptr, used_ptr, counts_ptr, sums_ptr, levels, count, dim,
    ROUNDS: tl.constexpr, SIZE: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Use of BK codes of one level and the sum of their vectors among ROUNDS · BN, without atomics.

    A product with the one-hot matrix: ones are exact in TF32, and vectors are taken apart into a part that is
    and what is left.
    """
    level, part = tl.program_id(0), tl.program_id(2)
    code = tl.program_id(1) * BK + tl.arange(0, BK)
    d = tl.arange(0, DP)
    counts_K = tl.zeros([BK], tl.float32)
    sums_KD = tl.zeros([BK, DP], tl.float32)
    for step in range(ROUNDS):
        n = (part * ROUNDS + step) * BN + tl.arange(0, BN)
        real = n < count
        used = tl.load(used_ptr + level * count + n, mask=real, other=0) != 0
        found = tl.load(found_ptr + level * count + n, mask=real & used, other=-1)
        at_ND = (level * count + n)[:, None] * dim + d[None, :]
        mask_ND = (real & used)[:, None] & (d < dim)[None, :]
        vector_ND = tl.load(vectors_ptr + at_ND, mask=mask_ND, other=0.0)
        hot_KN = (found[None, :] == code[:, None]).to(tl.float32)
        counts_K += tl.sum(hot_KN, axis=1)
        coarse_ND = (vector_ND.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        sums_KD += tl.dot(hot_KN, coarse_ND, input_precision="tf32")
        sums_KD += tl.dot(hot_KN, vector_ND - coarse_ND, input_precision="tf32")
    place_K = (part * levels + level) * SIZE + code
    tl.store(counts_ptr + place_K, counts_K, mask=code < SIZE)
    mask_KD = (code < SIZE)[:, None] & (d < dim)[None, :]
    tl.store(sums_ptr + place_K[:, None] * dim + d[None, :], sums_KD, mask=mask_KD)


class RVQ(torch.autograd.Function):
    """The chain; gradients go straight through the look-up (see `ResidualVectorQuantizer.forward`).

    Args: latents float32 [N, L]; depth int64 [N / frames]; projections in [Q, D, L], [Q, D] and out
    [Q, L, D], [Q, L]; codebooks [Q, K, D]; how codes are looked up.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latent_NL: Tensor,
        depth_B: Tensor,
        in_QDL: Tensor,
        in_bias_QD: Tensor,
        out_QLD: Tensor,
        out_bias_QL: Tensor,
        codebooks_QKD: Tensor,
        lookup: str,
    ) -> Chain:
        latent_NL = latent_NL.contiguous()
        count, channels = latent_NL.shape
        levels, dim = in_QDL.shape[:2]
        size = codebooks_QKD.shape[1]
        device = latent_NL.device
        programs = triton.cdiv(count, _VECTORS)
        rows_QKD, offsets_QK = search_terms(codebooks_QKD, lookup)
        total_NL, left_NL = torch.empty(2, count, channels, device=device)
        codes_QN = torch.empty(levels, count, dtype=torch.int64, device=device)
        vectors_QND = torch.empty(levels, count, dim, device=device)
        squares_P = torch.empty(programs, device=device)
        _chain[(programs,)](
            latent_NL, depth_B, in_QDL, in_bias_QD, out_QLD, out_bias_QL,
            codebooks_QKD, rows_QKD, offsets_QK,
            total_NL, left_NL, codes_QN, vectors_QND, squares_P,
            count, count // len(depth_B), channels, dim,
            LEVELS=levels, SIZE=size, BN=_VECTORS, BK=min(_CODES, triton.next_power_of_2(size)),
            DP=_block(dim), LP=_block(channels), num_warps=4,
        )  # fmt: skip
        ctx.mark_non_differentiable(codes_QN, vectors_QND)
        ctx.save_for_backward(
            depth_B, in_QDL, out_QLD, out_bias_QL, codebooks_QKD, left_NL, codes_QN, vectors_QND
        )
        return Chain(total_NL, codes_QN, vectors_QND, squares_P.sum(), squares_P.sum())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_total_NL, _, _, grad_commitment, grad_codebook = grads
        depth_B, in_QDL, out_QLD, out_bias_QL, codebooks_QKD, left_NL, codes_QN, vectors_QND = (
            ctx.saved_tensors
        )
        count, channels = left_NL.shape
        levels, dim = in_QDL.shape[:2]
        frames = count // len(depth_B)
        device = left_NL.device
        programs = triton.cdiv(count, _VECTORS)
        grad_latent_NL = torch.empty_like(left_NL)
        grad_in_PQDL, grad_out_PQDL = torch.empty(2, programs, levels, dim, channels, device=device)
        grad_in_bias_PQD = torch.empty(programs, levels, dim, device=device)
        grad_out_bias_PQL = torch.empty(programs, levels, channels, device=device)
        _chain_backward[(programs,)](
            grad_total_NL.contiguous(), grad_commitment, depth_B, in_QDL, out_QLD, out_bias_QL, codebooks_QKD,
            left_NL, codes_QN, vectors_QND,
            grad_latent_NL, grad_in_PQDL, grad_in_bias_PQD, grad_out_PQDL, grad_out_bias_PQL,
            count, frames, channels, dim,
            LEVELS=levels, SIZE=codebooks_QKD.shape[1], BN=_VECTORS, DP=_block(dim), LP=_block(channels),
            num_warps=4,
        )  # fmt: skip
        grad_codebooks_QKD = None
        if ctx.needs_input_grad[6]:
            used_QN = (torch.arange(levels, device=device)[:, None] < depth_B).repeat_interleave(frames, 1)
            counts_QK, sums_QKD = statistics(codes_QN, vectors_QND, used_QN, codebooks_QKD.shape[1])
            grad_codebooks_QKD = 2.0 * grad_codebook * (counts_QK[..., None] * codebooks_QKD - sums_QKD)
        return (
            grad_latent_NL,
            None,
            grad_in_PQDL.sum(0),
            grad_in_bias_PQD.sum(0),
            grad_out_PQDL.sum(0).transpose(1, 2),
            grad_out_bias_PQL.sum(0),
            grad_codebooks_QKD,
            None,
        )


def rvq(*arguments: Tensor, lookup: str) -> Chain:
    """`RVQ` of its tensors, as `Chain`."""
    return Chain(*RVQ.apply(*arguments, lookup))


class Statistics(NamedTuple):
    """Use of each code [Q, K] and the sum of its vectors [Q, K, D]."""

    counts_QK: Tensor
    sums_QKD: Tensor


def statistics(codes_QN: Tensor, vectors_QND: Tensor, used_QN: Tensor, size: int) -> Statistics:
    """Statistics of looked-up vectors and their codes, where `used_QN`."""
    levels, count, dim = vectors_QND.shape
    rounds, chunk, block = 8, 128, 64
    parts = triton.cdiv(count, rounds * chunk)
    counts_SQK = torch.empty(parts, levels, size, device=codes_QN.device)
    sums_SQKD = torch.empty(parts, levels, size, dim, device=codes_QN.device)
    _statistics[(levels, triton.cdiv(size, block), parts)](
        codes_QN, vectors_QND, used_QN, counts_SQK, sums_SQKD, levels, count, dim,
        ROUNDS=rounds, SIZE=size, BN=chunk, BK=block, DP=_block(dim), num_warps=4,
    )  # fmt: skip
    return Statistics(counts_SQK.sum(0), sums_SQKD.sum(0))


def _block(size: int) -> int:
    # 16 is the least that a product of blocks takes.
    return int(max(16, triton.next_power_of_2(size)))
