"""A ConvNeXt block (`blocks.py`) with all but its matrix products in seven kernels.

The residual stream keeps its dtype (float32 in training); what enters the products has the autocast dtype.
Sums over rows are partial sums of each program, added up by one more kernel in a fixed order, so that a
seed gives the same gradients twice. Convolution outputs are not kept but computed again in backward.

Shapes: B batch, F frames, W width, H hidden width, M = B · F rows, P programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from distill_ray.vqvae.kernels import product_dtype

_ROWS = 13  # consecutive frames for one program of the row kernels: windows of 0.75 s are five times that
_TAPS = 7  # of the depthwise convolution; the kernels name each
_SUMS = 10  # sums over rows of the backward row kernel: seven taps, convolution bias, norm weight, norm bias


@triton.jit
def _frame(x_ptr, row, frame, frames, offset: tl.constexpr, at, inside, width):
    """The frame `offset` after `frame` [W], zeros outside the item."""
    there = (frame + offset >= 0) & (frame + offset < frames)
    return tl.load(x_ptr + (row + offset) * width + at, mask=inside & there, other=0.0).to(tl.float32)


@triton.jit
def _conv_norm(
    x_ptr, w_ptr, bias_ptr, gamma_ptr, beta_ptr, out_ptr, mean_ptr, rstd_ptr,
    frames, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    item, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < width
    bias = tl.load(bias_ptr + at, mask=inside, other=0.0)
    gamma = tl.load(gamma_ptr + at, mask=inside, other=0.0)
    beta = tl.load(beta_ptr + at, mask=inside, other=0.0)
    w0 = tl.load(w_ptr + 0 * width + at, mask=inside, other=0.0)
    w1 = tl.load(w_ptr + 1 * width + at, mask=inside, other=0.0)
    w2 = tl.load(w_ptr + 2 * width + at, mask=inside, other=0.0)
    w3 = tl.load(w_ptr + 3 * width + at, mask=inside, other=0.0)
    w4 = tl.load(w_ptr + 4 * width + at, mask=inside, other=0.0)
    w5 = tl.load(w_ptr + 5 * width + at, mask=inside, other=0.0)
    w6 = tl.load(w_ptr + 6 * width + at, mask=inside, other=0.0)
    first = item * frames + chunk * ROWS
    x0 = _frame(x_ptr, first, chunk * ROWS, frames, -3, at, inside, width)
    x1 = _frame(x_ptr, first, chunk * ROWS, frames, -2, at, inside, width)
    x2 = _frame(x_ptr, first, chunk * ROWS, frames, -1, at, inside, width)
    x3 = _frame(x_ptr, first, chunk * ROWS, frames, 0, at, inside, width)
    x4 = _frame(x_ptr, first, chunk * ROWS, frames, 1, at, inside, width)
    x5 = _frame(x_ptr, first, chunk * ROWS, frames, 2, at, inside, width)
    x6 = _frame(x_ptr, first, chunk * ROWS, frames, 3, at, inside, width)
    for step in range(ROWS):
        frame = chunk * ROWS + step
        row = first + step
        here = inside & (frame < frames)
        # what the next round needs, asked for before this round's stores
        x7 = _frame(x_ptr, row, frame, frames, 4, at, inside, width)
        mixed = bias + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3 + w4 * x4 + w5 * x5 + w6 * x6
        mean = tl.sum(mixed, axis=0) / width
        centred = tl.where(inside, mixed - mean, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
        normed = centred * rstd * gamma + beta
        tl.store(out_ptr + row * width + at, normed.to(out_ptr.dtype.element_ty), mask=here)
        tl.store(mean_ptr + row, mean, mask=frame < frames)
        tl.store(rstd_ptr + row, rstd, mask=frame < frames)
        x0, x1, x2, x3, x4, x5, x6 = x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _conv_norm_backward(
    grad_ptr, x_ptr, w_ptr, bias_ptr, gamma_ptr, mean_ptr, rstd_ptr, out_ptr, sums_ptr, stride,
    frames, width, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From the gradient of the normed rows to that of the convolution's output, and ten sums over rows."""
    item, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < width
    bias = tl.load(bias_ptr + at, mask=inside, other=0.0)
    gamma = tl.load(gamma_ptr + at, mask=inside, other=0.0)
    zero = tl.zeros([BLOCK], tl.float32)
    s0, s1, s2, s3, s4, s5, s6 = zero, zero, zero, zero, zero, zero, zero
    sum_bias, sum_gamma, sum_beta = zero, zero, zero
    w0 = tl.load(w_ptr + 0 * width + at, mask=inside, other=0.0)
    w1 = tl.load(w_ptr + 1 * width + at, mask=inside, other=0.0)
    w2 = tl.load(w_ptr + 2 * width + at, mask=inside, other=0.0)
    w3 = tl.load(w_ptr + 3 * width + at, mask=inside, other=0.0)
    w4 = tl.load(w_ptr + 4 * width + at, mask=inside, other=0.0)
    w5 = tl.load(w_ptr + 5 * width + at, mask=inside, other=0.0)
    w6 = tl.load(w_ptr + 6 * width + at, mask=inside, other=0.0)
    first = item * frames + chunk * ROWS
    x0 = _frame(x_ptr, first, chunk * ROWS, frames, -3, at, inside, width)
    x1 = _frame(x_ptr, first, chunk * ROWS, frames, -2, at, inside, width)
    x2 = _frame(x_ptr, first, chunk * ROWS, frames, -1, at, inside, width)
    x3 = _frame(x_ptr, first, chunk * ROWS, frames, 0, at, inside, width)
    x4 = _frame(x_ptr, first, chunk * ROWS, frames, 1, at, inside, width)
    x5 = _frame(x_ptr, first, chunk * ROWS, frames, 2, at, inside, width)
    x6 = _frame(x_ptr, first, chunk * ROWS, frames, 3, at, inside, width)
    some = chunk * ROWS < frames
    mean = tl.load(mean_ptr + first, mask=some, other=0.0)
    rstd = tl.load(rstd_ptr + first, mask=some, other=0.0)
    grad = tl.load(grad_ptr + first * width + at, mask=inside & some, other=0.0).to(tl.float32)
    for step in range(ROWS):
        frame = chunk * ROWS + step
        row = first + step
        here = inside & (frame < frames)
        # what the next round needs, asked for before this round's stores
        x7 = _frame(x_ptr, row, frame, frames, 4, at, inside, width)
        mixed = bias + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3 + w4 * x4 + w5 * x5 + w6 * x6
        more = (step + 1 < ROWS) & (frame + 1 < frames)
        next_mean = tl.load(mean_ptr + row + 1, mask=more, other=0.0)
        next_rstd = tl.load(rstd_ptr + row + 1, mask=more, other=0.0)
        next_grad = tl.load(grad_ptr + (row + 1) * width + at, mask=inside & more, other=0.0).to(tl.float32)
        direction = tl.where(inside, (mixed - mean) * rstd, 0.0)
        scaled = grad * gamma
        along = tl.sum(scaled * direction, axis=0) / width
        level = tl.sum(scaled, axis=0) / width
        out = tl.where(inside, rstd * (scaled - level - direction * along), 0.0)
        tl.store(out_ptr + row * width + at, out.to(out_ptr.dtype.element_ty), mask=here)
        sum_bias += out
        sum_gamma += grad * direction
        sum_beta += grad
        s0 += out * x0
        s1 += out * x1
        s2 += out * x2
        s3 += out * x3
        s4 += out * x4
        s5 += out * x5
        s6 += out * x6
        mean, rstd, grad = next_mean, next_rstd, next_grad
        x0, x1, x2, x3, x4, x5, x6 = x1, x2, x3, x4, x5, x6, x7
    place = sums_ptr + (item * tl.num_programs(1) + chunk) * stride + at
    tl.store(place, s0, mask=inside)
    tl.store(place + width, s1, mask=inside)
    tl.store(place + 2 * width, s2, mask=inside)
    tl.store(place + 3 * width, s3, mask=inside)
    tl.store(place + 4 * width, s4, mask=inside)
    tl.store(place + 5 * width, s5, mask=inside)
    tl.store(place + 6 * width, s6, mask=inside)
    tl.store(place + 7 * width, sum_bias, mask=inside)
    tl.store(place + 8 * width, sum_gamma, mask=inside)
    tl.store(place + 9 * width, sum_beta, mask=inside)


@triton.jit
def _conv_transposed(grad_ptr, w_ptr, skip_ptr, out_ptr, frames, width, count, BLOCK: tl.constexpr):
    """The gradient of x: through the convolution, plus `skip` past it."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    column = at % width
    frame = (at // width) % frames
    total = tl.load(skip_ptr + at, mask=inside, other=0.0).to(tl.float32)
    for tap in tl.static_range(7):
        there = inside & (frame - tap + 3 >= 0) & (frame - tap + 3 < frames)
        grad = tl.load(grad_ptr + at + (3 - tap) * width, mask=there, other=0.0).to(tl.float32)
        total += grad * tl.load(w_ptr + tap * width + column, mask=inside, other=0.0)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gelu(x_ptr, bias_ptr, out_ptr, width, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + at % width, mask=inside, other=0.0)
    out = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_backward(
    grad_ptr, x_ptr, bias_ptr, out_ptr, sums_ptr, stride, rows, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient before the GELU (exact), and its sum over rows, which is that of the bias."""
    chunk = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    bias = tl.load(bias_ptr + at, mask=inside, other=0.0)
    total = tl.zeros([BLOCK], tl.float32)
    start = chunk * ROWS
    x = tl.load(x_ptr + start * width + at, mask=inside & (start < rows), other=0.0)
    grad = tl.load(grad_ptr + start * width + at, mask=inside & (start < rows), other=0.0)
    for step in range(ROWS):
        row = start + step
        place = row * width + at
        # what the next round needs, asked for before this round's stores
        more = inside & (step + 1 < ROWS) & (row + 1 < rows)
        next_x = tl.load(x_ptr + place + width, mask=more, other=0.0)
        next_grad = tl.load(grad_ptr + place + width, mask=more, other=0.0)
        y = x.to(tl.float32) + bias
        slope = 0.5 * (1.0 + tl.erf(y * 0.7071067811865476))
        slope += y * 0.3989422804014327 * tl.exp(-0.5 * y * y)
        out = grad.to(tl.float32) * slope
        tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=inside & (row < rows))
        total += out
        x, grad = next_x, next_grad
    tl.store(sums_ptr + chunk * stride + at, total, mask=inside)


@triton.jit
def _join(x_ptr, branch_ptr, bias_ptr, scale_ptr, out_ptr, width, count, BLOCK: tl.constexpr):
    """x + scale · (branch + bias)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    column = at % width
    branch = tl.load(branch_ptr + at, mask=inside, other=0.0).to(tl.float32)
    branch += tl.load(bias_ptr + column, mask=inside, other=0.0)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    out = x + tl.load(scale_ptr + column, mask=inside, other=0.0) * branch
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _join_backward(
    grad_ptr, branch_ptr, scale_ptr, out_ptr, sums_ptr, stride, rows, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The branch's gradient, and the sums over rows of the gradient and of gradient · branch."""
    chunk = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    scale = tl.load(scale_ptr + at, mask=inside, other=0.0)
    total = tl.zeros([BLOCK], tl.float32)
    along = tl.zeros([BLOCK], tl.float32)
    start = chunk * ROWS
    grad = tl.load(grad_ptr + start * width + at, mask=inside & (start < rows), other=0.0)
    branch = tl.load(branch_ptr + start * width + at, mask=inside & (start < rows), other=0.0)
    for step in range(ROWS):
        row = start + step
        place = row * width + at
        more = inside & (step + 1 < ROWS) & (row + 1 < rows)
        next_grad = tl.load(grad_ptr + place + width, mask=more, other=0.0)
        next_branch = tl.load(branch_ptr + place + width, mask=more, other=0.0)
        wide = grad.to(tl.float32)
        tl.store(out_ptr + place, (wide * scale).to(out_ptr.dtype.element_ty), mask=inside & (row < rows))
        total += wide
        along += wide * branch.to(tl.float32)
        grad, branch = next_grad, next_branch
    tl.store(sums_ptr + chunk * stride + at, total, mask=inside)
    tl.store(sums_ptr + chunk * stride + width + at, along, mask=inside)


def matmul_f32(left_XM: Tensor, right_MY: Tensor) -> Tensor:
    """Product with float32 output of operands of any dtype, so that no gradient of weights is rounded."""
    if left_XM.dtype == torch.float32 or not left_XM.is_cuda:
        return left_XM.float() @ right_MY.float()
    return torch.mm(left_XM, right_MY, out_dtype=torch.float32)


class ConvNeXt(torch.autograd.Function):
    """x + scale · MLP(norm(depthwise(x))) of x [B, F, W]; parameters as `ConvNeXtBlock` has them."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BFW: Tensor,
        taps_W17: Tensor,
        taps_bias_W: Tensor,
        gamma_W: Tensor,
        beta_W: Tensor,
        expand_HW: Tensor,
        expand_bias_H: Tensor,
        contract_WH: Tensor,
        contract_bias_W: Tensor,
        scale_W: Tensor,
        eps: float,
    ) -> Tensor:
        batch, frames, width = x_BFW.shape
        device, dtype = x_BFW.device, product_dtype(x_BFW)
        rows, hidden = batch * frames, len(expand_HW)
        x_BFW = x_BFW.contiguous()
        taps_7W = taps_W17[:, 0].T.contiguous()
        normed_MW = torch.empty(rows, width, device=device, dtype=dtype)
        mean_M, rstd_M = torch.empty(2, rows, device=device)
        block = triton.next_power_of_2(width)
        _conv_norm[(batch, triton.cdiv(frames, _ROWS))](
            x_BFW, taps_7W, taps_bias_W, gamma_W, beta_W, normed_MW, mean_M, rstd_M,
            frames, width, eps, ROWS=_ROWS, BLOCK=block, num_warps=_row_warps(block),
        )  # fmt: skip
        with torch.autocast(device.type, enabled=False):
            first_HW, second_WH = expand_HW.to(dtype), contract_WH.to(dtype)
            before_MH = normed_MW @ first_HW.T
            active_MH = torch.empty_like(before_MH)
            count = rows * hidden
            _gelu[(triton.cdiv(count, 2048),)](
                before_MH, expand_bias_H, active_MH, hidden, count, BLOCK=2048, num_warps=8
            )
            branch_MW = active_MH @ second_WH.T
        out_BFW = torch.empty_like(x_BFW, dtype=torch.promote_types(x_BFW.dtype, scale_W.dtype))
        count = rows * width
        _join[(triton.cdiv(count, 1024),)](
            x_BFW, branch_MW, contract_bias_W, scale_W, out_BFW, width, count, BLOCK=1024, num_warps=4
        )
        ctx.save_for_backward(
            x_BFW, normed_MW, mean_M, rstd_M, before_MH, active_MH, branch_MW,
            taps_7W, taps_bias_W, gamma_W, first_HW, expand_bias_H, second_WH, contract_bias_W, scale_W,
        )  # fmt: skip
        return out_BFW

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_BFW, normed_MW, mean_M, rstd_M, before_MH, active_MH, branch_MW,
            taps_7W, taps_bias_W, gamma_W, first_HW, expand_bias_H, second_WH, contract_bias_W, scale_W,
        ) = ctx.saved_tensors  # fmt: skip
        grad_BFW = grads[0].contiguous()
        batch, frames, width = x_BFW.shape
        rows, hidden = before_MH.shape
        # Every kernel leaves its sums over rows in other columns of one matrix, which is added up at the end.
        items = (batch, triton.cdiv(frames, _ROWS))
        programs = items[0] * items[1]
        stride = (2 + _SUMS) * width + hidden
        sums_PX = torch.empty(programs, stride, device=x_BFW.device)

        back_MW = torch.empty_like(branch_MW)
        block = min(512, triton.next_power_of_2(width))
        _join_backward[(programs, triton.cdiv(width, block))](
            grad_BFW, branch_MW, scale_W, back_MW, sums_PX, stride, rows, width,
            ROWS=_ROWS, BLOCK=block, num_warps=4,
        )  # fmt: skip
        active_grad_MH = back_MW @ second_WH
        grad_contract_WH = matmul_f32(back_MW.T, active_MH)
        before_grad_MH = torch.empty_like(active_grad_MH)
        block = min(1024, triton.next_power_of_2(hidden))
        _gelu_backward[(programs, triton.cdiv(hidden, block))](
            active_grad_MH, before_MH, expand_bias_H, before_grad_MH, sums_PX[:, 2 * width :], stride,
            rows, hidden, ROWS=_ROWS, BLOCK=block, num_warps=4,
        )  # fmt: skip
        normed_grad_MW = before_grad_MH @ first_HW
        grad_expand_HW = matmul_f32(before_grad_MH.T, normed_MW)
        mixed_grad_MW = torch.empty_like(normed_grad_MW)
        block = triton.next_power_of_2(width)
        _conv_norm_backward[items](
            normed_grad_MW, x_BFW, taps_7W, taps_bias_W, gamma_W, mean_M, rstd_M, mixed_grad_MW,
            sums_PX[:, 2 * width + hidden :], stride, frames, width,
            ROWS=_ROWS, BLOCK=block, num_warps=_row_warps(block),
        )  # fmt: skip
        grad_x_BFW = torch.empty_like(x_BFW)
        count = rows * width
        _conv_transposed[(triton.cdiv(count, 1024),)](
            mixed_grad_MW, taps_7W, grad_BFW, grad_x_BFW, frames, width, count, BLOCK=1024, num_warps=4
        )
        total_W, along_W, grad_expand_bias_H, taps, bias_W, grad_gamma_W, grad_beta_W = (
            sums_PX.T @ torch.ones(programs, device=x_BFW.device)
        ).split([width, width, hidden, _TAPS * width, width, width, width])
        return (
            grad_x_BFW,
            taps.view(_TAPS, width).T.unsqueeze(1),
            bias_W,
            grad_gamma_W,
            grad_beta_W,
            grad_expand_HW,
            grad_expand_bias_H,
            grad_contract_WH,
            scale_W * total_W,
            along_W + contract_bias_W * total_W,
            None,
        )


def convnext(x_BFW: Tensor, *parameters: Tensor | None, eps: float) -> Tensor:
    """`ConvNeXt` on x [B, F, W] of any floating dtype; the result has at least the parameters' precision."""
    out_BFW: Tensor = ConvNeXt.apply(x_BFW, *parameters, eps)
    return out_BFW


def _row_warps(block: int) -> int:
    return max(1, min(8, block // 128))
