"""What a training step of a prior does between its products, as kernels for NVIDIA GPUs, written in Triton.

Step by step torch reads and writes the activations a dozen times a layer, which takes longer than the
products. Here it is once: dropout, the sum with the residual stream and the norm after it; rotary positions;
SwiGLU; the loss and its gradient. `transformer.py` and `model.py` are the reference, which these follow
within rounding; dropout draws other numbers of the same chance, of seeds from torch's generator.

Legend: B batch, S steps, N rows (B · S), E hidden size, H heads, D width of a head, F features, K codes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd import Function

_MOST_PROGRAMS = 1056  # eight for each processor of an H200
_ELEMENTS = 1024


@triton.jit
def _kept(seed_ptr, at, p):
    """What dropout multiplies elements `at` by."""
    return tl.where(tl.rand(tl.load(seed_ptr), at) >= p, 1.0 / (1.0 - p), 0.0)


@triton.jit
def _add_norm(
    x_ptr, y_ptr, weight_ptr, seed_ptr, sum_ptr, out_ptr, size_ptr, p, eps,
    E: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    inside = e < E
    at = row * E + e
    total = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if DROP:
        total *= _kept(seed_ptr, at, p)
    if ADD:
        total += tl.load(x_ptr + at, mask=inside, other=0.0)
    size = 1.0 / tl.sqrt(tl.sum(total * total, axis=0) / E + eps)
    weight = tl.load(weight_ptr + e, mask=inside, other=0.0)
    tl.store(sum_ptr + at, total, mask=inside)
    tl.store(out_ptr + at, (total * size * weight).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(size_ptr + row, size)


@triton.jit
def _add_norm_back(
    grad_sum_ptr, grad_out_ptr, sum_ptr, size_ptr, weight_ptr, seed_ptr, grad_x_ptr, grad_y_ptr, parts_ptr,
    rows, p, E: tl.constexpr, BLOCK: tl.constexpr, GRAD_SUM: tl.constexpr, ADD: tl.constexpr,
    DROP: tl.constexpr,
):  # fmt: skip
    e = tl.arange(0, BLOCK)
    inside = e < E
    weight = tl.load(weight_ptr + e, mask=inside, other=0.0)
    along = tl.zeros([BLOCK], tl.float32)
    row = tl.program_id(0)
    while row < rows:
        at = row * E + e
        size = tl.load(size_ptr + row)
        normed = tl.load(sum_ptr + at, mask=inside, other=0.0) * size
        grad_out = tl.load(grad_out_ptr + at, mask=inside, other=0.0).to(tl.float32)
        along += grad_out * normed
        grad_normed = grad_out * weight
        grad = size * (grad_normed - normed * (tl.sum(grad_normed * normed, axis=0) / E))
        if GRAD_SUM:
            grad += tl.load(grad_sum_ptr + at, mask=inside, other=0.0)
        if ADD:
            tl.store(grad_x_ptr + at, grad, mask=inside)
        if DROP:
            grad *= _kept(seed_ptr, at, p)
        tl.store(grad_y_ptr + at, grad.to(grad_y_ptr.dtype.element_ty), mask=inside)
        row += tl.num_programs(0)
    tl.store(parts_ptr + tl.program_id(0) * E + e, along, mask=inside)


@triton.jit
def _rotate(
    in_ptr, query_ptr, key_ptr, value_ptr, cos_ptr, sin_ptr, steps, count,
    F: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[N, 3, F] to three [N, F], query and key at their positions."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    half: tl.constexpr = D // 2
    row, f = at // F, at % F
    d = f % D
    place = in_ptr + row * (3 * F) + f
    other = tl.where(d < half, half, -half)
    sign = tl.where(d < half, -1.0, 1.0)
    cos = tl.load(cos_ptr + row % steps * D + d, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + row % steps * D + d, mask=inside, other=0.0) * sign
    query = tl.load(place, mask=inside, other=0.0).to(tl.float32) * cos
    query += tl.load(place + other, mask=inside, other=0.0).to(tl.float32) * sin
    key = tl.load(place + F, mask=inside, other=0.0).to(tl.float32) * cos
    key += tl.load(place + F + other, mask=inside, other=0.0).to(tl.float32) * sin
    tl.store(query_ptr + at, query.to(query_ptr.dtype.element_ty), mask=inside)
    tl.store(key_ptr + at, key.to(key_ptr.dtype.element_ty), mask=inside)
    tl.store(value_ptr + at, tl.load(place + 2 * F, mask=inside, other=0.0), mask=inside)


@triton.jit
def _rotate_back(
    query_ptr, key_ptr, value_ptr, out_ptr, cos_ptr, sin_ptr, steps, count,
    F: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Three gradients [N, F] to one of [N, 3, F]: turned back."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    half: tl.constexpr = D // 2
    row, f = at // F, at % F
    d = f % D
    place = out_ptr + row * (3 * F) + f
    other = tl.where(d < half, half, -half)
    sign = tl.where(d < half, 1.0, -1.0)
    cos = tl.load(cos_ptr + row % steps * D + d, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + row % steps * D + d, mask=inside, other=0.0) * sign
    query = tl.load(query_ptr + at, mask=inside, other=0.0).to(tl.float32) * cos
    query += tl.load(query_ptr + at + other, mask=inside, other=0.0).to(tl.float32) * sin
    key = tl.load(key_ptr + at, mask=inside, other=0.0).to(tl.float32) * cos
    key += tl.load(key_ptr + at + other, mask=inside, other=0.0).to(tl.float32) * sin
    tl.store(place, query.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(place + F, key.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(place + 2 * F, tl.load(value_ptr + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def _gate(in_ptr, out_ptr, count, F: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    place = in_ptr + at // F * (2 * F) + at % F
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + F, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_back(in_ptr, grad_ptr, out_ptr, count, F: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    place = at // F * (2 * F) + at % F
    gate = tl.load(in_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(in_ptr + place + F, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    grad_gate = grad * up * share * (1.0 + gate * (1.0 - share))
    tl.store(out_ptr + place, grad_gate.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + place + F, (grad * gate * share).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _nats(logits_ptr, targets_ptr, out_ptr, sums_ptr, K: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK)
    place = logits_ptr + row.to(tl.int64) * K
    logits = tl.load(place + k, mask=k < K, other=-float("inf")).to(tl.float32)
    top = tl.max(logits, axis=0)
    logarithm = top + tl.log(tl.sum(tl.exp(logits - top), axis=0))
    target = tl.load(targets_ptr + row)
    own = tl.load(place + tl.maximum(target, 0)).to(tl.float32)
    tl.store(out_ptr + row, tl.where(target >= 0, logarithm - own, 0.0))
    tl.store(sums_ptr + row, logarithm)


@triton.jit
def _nats_back(
    logits_ptr, targets_ptr, sums_ptr, grad_ptr, out_ptr, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK)
    place = row.to(tl.int64) * K + k
    target = tl.load(targets_ptr + row)
    grad = tl.where(target >= 0, tl.load(grad_ptr + row), 0.0)
    logits = tl.load(logits_ptr + place, mask=k < K, other=-float("inf")).to(tl.float32)
    found = grad * (tl.exp(logits - tl.load(sums_ptr + row)) - tl.where(k == target, 1.0, 0.0))
    tl.store(out_ptr + place, found.to(out_ptr.dtype.element_ty), mask=k < K)


class _AddNorm(Function):
    """x + dropout(y), and its norm in the dtype of products; x may be None."""

    @staticmethod
    def forward(ctx: Any, x_NE: Tensor | None, y_NE: Tensor, weight_E: Tensor, seed_1: Tensor, p: float,
                eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows, size = y_NE.shape
        sum_NE = torch.empty_like(y_NE, dtype=torch.float32)
        out_NE = torch.empty_like(y_NE, dtype=dtype)
        size_N = y_NE.new_empty(rows, dtype=torch.float32)
        ctx.drop, ctx.p, ctx.add, ctx.dtype = p > 0.0, p, x_NE is not None, y_NE.dtype
        _add_norm[(rows,)](
            y_NE if x_NE is None else x_NE, y_NE, weight_E, seed_1, sum_NE, out_NE, size_N, p, eps,
            E=size, BLOCK=triton.next_power_of_2(size), ADD=ctx.add, DROP=ctx.drop,
        )  # fmt: skip
        ctx.save_for_backward(sum_NE, size_N, weight_E, seed_1)
        ctx.set_materialize_grads(False)
        return sum_NE, out_NE

    @staticmethod
    def backward(ctx: Any, grad_sum_NE: Tensor | None, grad_out_NE: Tensor) -> tuple[Tensor | None, ...]:
        sum_NE, size_N, weight_E, seed_1 = ctx.saved_tensors
        rows, size = sum_NE.shape
        grad_y_NE = torch.empty_like(sum_NE, dtype=ctx.dtype)
        grad_x_NE = torch.empty_like(sum_NE) if ctx.add else None
        programs = min(rows, _MOST_PROGRAMS)
        parts_PE = sum_NE.new_empty(programs, size)
        _add_norm_back[(programs,)](
            sum_NE if grad_sum_NE is None else grad_sum_NE.contiguous(), grad_out_NE.contiguous(), sum_NE,
            size_N, weight_E, seed_1, grad_y_NE if grad_x_NE is None else grad_x_NE, grad_y_NE, parts_PE,
            rows, ctx.p, E=size, BLOCK=triton.next_power_of_2(size), GRAD_SUM=grad_sum_NE is not None,
            ADD=ctx.add, DROP=ctx.drop,
        )  # fmt: skip
        return grad_x_NE, grad_y_NE, parts_PE.sum(0), None, None, None, None


class _Rotated(Function):
    """Query, key and value [N, F] of [N, 3 · F]."""

    @staticmethod
    def forward(ctx: Any, qkv_NF: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, features = len(qkv_NF), qkv_NF.shape[1] // 3
        query_NF, key_NF, value_NF = (qkv_NF.new_empty(rows, features) for _ in range(3))
        _rotate[(triton.cdiv(query_NF.numel(), _ELEMENTS),)](
            qkv_NF, query_NF, key_NF, value_NF, cos_SD, sin_SD, len(cos_SD), query_NF.numel(),
            F=features, D=cos_SD.shape[1], BLOCK=_ELEMENTS,
        )  # fmt: skip
        ctx.save_for_backward(cos_SD, sin_SD)
        return query_NF, key_NF, value_NF

    @staticmethod
    def backward(ctx: Any, *grads_NF: Tensor) -> tuple[Tensor | None, ...]:
        cos_SD, sin_SD = ctx.saved_tensors
        query_NF, key_NF, value_NF = (grad_NF.contiguous() for grad_NF in grads_NF)
        rows, features = query_NF.shape
        out_NF = query_NF.new_empty(rows, 3 * features)
        _rotate_back[(triton.cdiv(query_NF.numel(), _ELEMENTS),)](
            query_NF, key_NF, value_NF, out_NF, cos_SD, sin_SD, len(cos_SD), query_NF.numel(),
            F=features, D=cos_SD.shape[1], BLOCK=_ELEMENTS,
        )  # fmt: skip
        return out_NF, None, None


class _Gated(Function):
    """SwiGLU's inner features [N, F] of [N, 2 · F]."""

    @staticmethod
    def forward(ctx: Any, inner_NF: Tensor) -> Tensor:
        rows, features = len(inner_NF), inner_NF.shape[1] // 2
        out_NF: Tensor = inner_NF.new_empty(rows, features)
        _gate[(triton.cdiv(out_NF.numel(), _ELEMENTS),)](
            inner_NF, out_NF, out_NF.numel(), F=features, BLOCK=_ELEMENTS
        )
        ctx.save_for_backward(inner_NF)
        return out_NF

    @staticmethod
    def backward(ctx: Any, grad_NF: Tensor) -> Tensor:
        (inner_NF,) = ctx.saved_tensors
        out_NF: Tensor = torch.empty_like(inner_NF)
        _gate_back[(triton.cdiv(grad_NF.numel(), _ELEMENTS),)](
            inner_NF, grad_NF.contiguous(), out_NF, grad_NF.numel(), F=grad_NF.shape[1], BLOCK=_ELEMENTS
        )
        return out_NF


class _Nats(Function):
    """Negative log-likelihoods [N] of targets [N] under logits [N, K]; 0 where a target is negative."""

    @staticmethod
    def forward(ctx: Any, logits_NK: Tensor, targets_N: Tensor) -> Tensor:
        rows, size = logits_NK.shape
        nats_N = logits_NK.new_empty(rows, dtype=torch.float32)
        sums_N = torch.empty_like(nats_N)
        block = triton.next_power_of_2(size)
        _nats[(rows,)](logits_NK, targets_N, nats_N, sums_N, K=size, BLOCK=block)
        ctx.save_for_backward(logits_NK, targets_N, sums_N)
        return nats_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None]:
        logits_NK, targets_N, sums_N = ctx.saved_tensors
        rows, size = logits_NK.shape
        out_NK, block = torch.empty_like(logits_NK), triton.next_power_of_2(size)
        _nats_back[(rows,)](logits_NK, targets_N, sums_N, grad_N.contiguous(), out_NK, K=size, BLOCK=block)
        return out_NK, None


def nats(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    """nats_N float32 of the targets, int64; negative ones count nothing."""
    found_N: Tensor = _Nats.apply(logits_NK.contiguous(), targets_N.contiguous())
    return found_N


def add_norm(
    x_NE: Tensor | None, y_NE: Tensor, norm: nn.RMSNorm, seed_1: Tensor, p: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x + dropout(y) in float32, and its norm in `dtype`; x may be None. seed_1: int64, of the dropout."""
    found: tuple[Tensor, Tensor] = _AddNorm.apply(x_NE, y_NE, norm.weight, seed_1, p, norm.eps, dtype)
    return found


def rotated(qkv_NF: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, each a third of the features; query and key at their positions."""
    found: tuple[Tensor, Tensor, Tensor] = _Rotated.apply(qkv_NF, cos_SD, sin_SD)
    return found


def gated(inner_NF: Tensor) -> Tensor:
    """SwiGLU: the second half of the features, times SiLU of the first."""
    found_NF: Tensor = _Gated.apply(inner_NF)
    return found_NF
