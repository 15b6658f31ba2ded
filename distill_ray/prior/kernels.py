"""`fixed_ops.py` as kernels for NVIDIA GPUs, written in Triton: a step of a few rows is a chain of small
products, whose time is that of the number of kernels. Five make a layer.

Up to `FEW` rows a product is one kernel with the norm before it and what follows: every program holds a few
rows of the weights and goes through all rows of the input. More rows go to cuBLAS. Attention reads the used
slots of its ring only; where rows are few several programs share a head, and the product after it joins
their parts.

Legend: as in `fixed_ops.py`; S parts of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.generation import SamplingConfig
from distill_ray.prior import fixed_ops
from distill_ray.prior.drawing import LEAST_TEMPERATURE
from distill_ray.prior.fixed_ops import Memory

FEW = 8
BY_TENSOR_CORES = False
"""Whether products of more rows are kernels, too, not cuBLAS's (tests/bench/prior_speed.py has both)."""
_WIDE_ROWS, _WIDE_FEATURES, _WIDE_INPUTS = 64, 16, 32
_NUMBERS = 8192  # of the weights, that a program takes at once
_PROGRAMS = 264  # two for each processor of an H200
_SLOTS = 64  # of a ring, taken at once
_MOST_PARTS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Attention in S parts: values_RSHD not yet divided by totals_RSH, which sum the exponentials of how far
    scores lie under the greatest, tops_RSH.
    """

    values_RSHD: Tensor
    tops_RSH: Tensor
    totals_RSH: Tensor


@triton.jit
def _embed(
    tokens_ptr, weight_ptr, condition_ptr, out_ptr, first_row, rows_of_level, batch,
    L: tl.constexpr, E: tl.constexpr, CONDITION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    inside = e < E
    total = tl.zeros([BLOCK], tl.float32)
    for slot in tl.static_range(L):
        place = tl.load(tokens_ptr + (row % batch) * L + slot) + first_row + slot * rows_of_level
        total += tl.load(weight_ptr + place * E + e, mask=inside, other=0.0)
    if CONDITION:
        total += tl.load(condition_ptr + row * E + e, mask=inside, other=0.0)
    tl.store(out_ptr + row * E + e, total, mask=inside)


@triton.jit
def _joined(values_ptr, tops_ptr, totals_ptr, row, k, K: tl.constexpr, S: tl.constexpr, D: tl.constexpr):
    """Features `k` of a row of what attention left in parts."""
    inside = k < K
    heads: tl.constexpr = K // D
    head = k // D
    top = tl.full(k.shape, -1e30, tl.float32)
    for part in tl.static_range(S):
        at = (row * S + part) * heads + head
        top = tl.maximum(top, tl.load(tops_ptr + at, mask=inside, other=-1e30))
    total = tl.zeros(k.shape, tl.float32)
    x = tl.zeros(k.shape, tl.float32)
    for part in tl.static_range(S):
        at = (row * S + part) * heads + head
        share = tl.exp(tl.load(tops_ptr + at, mask=inside, other=-1e30) - top)
        total += share * tl.load(totals_ptr + at, mask=inside, other=1.0)
        x += share * tl.load(values_ptr + (row * S + part) * K + k, mask=inside, other=0.0)
    return tl.where(inside, x / total, 0.0)


@triton.jit
def _product(
    x_ptr, tops_ptr, totals_ptr, weight_ptr, norm_ptr, out_ptr, rows, features, eps,
    K: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """N output features of all rows."""
    n = tl.program_id(0) * N + tl.arange(0, N)
    r = tl.arange(0, ROWS)
    total = tl.zeros([ROWS, N], tl.float32)
    total_up = tl.zeros([ROWS, N], tl.float32)
    energy = tl.zeros([ROWS], tl.float32)
    for begin in range(0, K, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        places = n[:, None].to(tl.int64) * K + k[None, :]
        inside = (n[:, None] < features) & (k[None, :] < K)
        weight = tl.load(weight_ptr + places, mask=inside, other=0.0)
        if GATED:
            up = tl.load(weight_ptr + features.to(tl.int64) * K + places, mask=inside, other=0.0)
        if NORM:
            norm = tl.load(norm_ptr + k, mask=k < K, other=0.0)
        for row in tl.static_range(ROWS):
            if S > 0:
                x = _joined(x_ptr, tops_ptr, totals_ptr, tl.minimum(row, rows - 1), k, K, S, D)
            else:
                x = tl.load(x_ptr + row * K + k, mask=(k < K) & (row < rows), other=0.0)
            if NORM:
                energy += tl.where(r == row, tl.sum(x * x, axis=0), 0.0)
                x *= norm
            found = tl.sum(weight * x[None, :], axis=1)
            total += tl.where(r[:, None] == row, found[None, :], 0.0)
            if GATED:
                found_up = tl.sum(up * x[None, :], axis=1)
                total_up += tl.where(r[:, None] == row, found_up[None, :], 0.0)
    if NORM:
        size = 1.0 / tl.sqrt(energy / K + eps)
        total *= size[:, None]
        total_up *= size[:, None]
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * total_up
    out = out_ptr + r[:, None] * features + n[None, :]
    stored = (r[:, None] < rows) & (n[None, :] < features)
    if ADD:
        total += tl.load(out, mask=stored, other=0.0)
    tl.store(out, total, mask=stored)


@triton.jit
def _wide_product(
    x_ptr, weight_ptr, norm_ptr, out_ptr, rows, features, eps,
    K: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """N output features of ROWS rows by tensor cores, in three products of TF32: near float32's."""
    n = tl.program_id(0) * N + tl.arange(0, N)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, N], tl.float32)
    total_up = tl.zeros([ROWS, N], tl.float32)
    energy = tl.zeros([ROWS], tl.float32)
    for begin in range(0, K, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        given = (r[:, None] < rows) & (k[None, :] < K)
        x = tl.load(x_ptr + r[:, None] * K + k[None, :], mask=given, other=0.0)
        places = n[None, :] * K + k[:, None]
        inside = (n[None, :] < features) & (k[:, None] < K)
        weight = tl.load(weight_ptr + places, mask=inside, other=0.0)
        if NORM:
            energy += tl.sum(x * x, axis=1)
            x *= tl.load(norm_ptr + k, mask=k < K, other=0.0)[None, :]
        total = tl.dot(x, weight, total, input_precision="tf32x3")
        if GATED:
            up = tl.load(weight_ptr + features * K + places, mask=inside, other=0.0)
            total_up = tl.dot(x, up, total_up, input_precision="tf32x3")
    if NORM:
        size = 1.0 / tl.sqrt(energy / K + eps)
        total *= size[:, None]
        total_up *= size[:, None]
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * total_up
    out = out_ptr + r[:, None] * features + n[None, :]
    stored = (r[:, None] < rows) & (n[None, :] < features)
    if ADD:
        total += tl.load(out, mask=stored, other=0.0)
    tl.store(out, total, mask=stored)


@triton.jit
def _gate(inner_ptr, out_ptr, count, F: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    gate_ptr = inner_ptr + at // F * (2 * F) + at % F
    gate = tl.load(gate_ptr, mask=inside, other=0.0)
    up = tl.load(gate_ptr + F, mask=inside, other=0.0)
    tl.store(out_ptr + at, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)


@triton.jit
def _turned(ptr, d, cos, sin, D: tl.constexpr):
    """A rotary vector at the position of `cos` and `sin`."""
    half: tl.constexpr = D // 2
    x = tl.load(ptr + d, mask=d < D, other=0.0)
    other = tl.load(ptr + tl.where(d < half, d + half, d - half), mask=d < D, other=0.0)
    return x * cos + tl.where(d < half, -other, other) * sin


@triton.jit
def _attend(
    qkv_ptr, table_ptr, clock_ptr, keys_ptr, values_ptr, out_ptr, tops_ptr, totals_ptr, window, scale,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Part `program_id(1)` of a head's attention; the first part also has the new step, and stores it."""
    row, head, part = tl.program_id(0) // H, tl.program_id(0) % H, tl.program_id(1)
    position, index = tl.load(clock_ptr), tl.load(clock_ptr + 1)
    slot = position % window
    used = tl.minimum(position + 1, window)
    d = tl.arange(0, WIDTH)
    inside = d < D
    cos = tl.load(table_ptr + index * (2 * D) + d, mask=inside, other=0.0)
    sin = tl.load(table_ptr + index * (2 * D) + D + d, mask=inside, other=0.0)
    own_ptr = qkv_ptr + row * (3 * H * D) + head * D
    query = _turned(own_ptr, d, cos, sin, D) * scale
    key = _turned(own_ptr + H * D, d, cos, sin, D)
    value = tl.load(own_ptr + 2 * H * D + d, mask=inside, other=0.0)
    ring = tl.program_id(0).to(tl.int64) * window * D
    is_first = part == 0
    tl.store(keys_ptr + ring + slot * D + d, key, mask=inside & is_first)
    tl.store(values_ptr + ring + slot * D + d, value, mask=inside & is_first)
    # Scores lie far above; an empty part counts for nothing.
    top = tl.where(is_first, tl.sum(query * key, axis=0), -1e30)
    total = tl.where(is_first, 1.0, 0.0)
    found = tl.where(is_first, value, 0.0)
    blocks = (used + S * BLOCK - 1) // (S * BLOCK)
    at = part * blocks * BLOCK
    end = tl.minimum(at + blocks * BLOCK, used)
    while at < end:
        s = at + tl.arange(0, BLOCK)
        seen = (s < end) & (s != slot)
        places = ring + s[:, None] * D + d[None, :]
        both = seen[:, None] & inside[None, :]
        keys = tl.load(keys_ptr + places, mask=both, other=0.0)
        values = tl.load(values_ptr + places, mask=both, other=0.0)
        scores = tl.where(seen, tl.sum(keys * query[None, :], axis=1), -1e30)
        new_top = tl.maximum(top, tl.max(scores, axis=0))
        shares = tl.where(seen, tl.exp(scores - new_top), 0.0)
        before = tl.exp(top - new_top)
        total = total * before + tl.sum(shares, axis=0)
        found = found * before + tl.sum(shares[:, None] * values, axis=0)
        top = new_top
        at += BLOCK
    place = (row * S + part) * H + head
    if S == 1:
        found = found / total
    else:
        tl.store(tops_ptr + place, top)
        tl.store(totals_ptr + place, total)
    tl.store(out_ptr + place * D + d, found, mask=inside)


@triton.jit
def _draw(
    logits_ptr, temperature_ptr, noise_ptr, known_ptr, clock_ptr, tokens_ptr, codes_ptr, batch, scale,
    temperature, L: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, GREEDY: tl.constexpr,
    DOUBLE: tl.constexpr,
):  # fmt: skip
    """`draw` of one code (`drawing.py`), at the level's temperature."""
    place = tl.program_id(0)  # b · L + l
    k = tl.arange(0, BLOCK)
    inside = k < K
    of_level = tl.load(temperature_ptr + place % L)
    logits = tl.load(logits_ptr + place * K + k, mask=inside, other=0.0) / of_level
    if DOUBLE:
        without = tl.load(logits_ptr + (place + batch * L) * K + k, mask=inside, other=0.0) / of_level
        logits = without + scale * (logits - without)
    logits = tl.where(inside, logits, -float("inf"))
    held = tl.load(clock_ptr + 1) * (batch * L) + place
    if GREEDY:
        code = tl.argmax(logits, axis=0).to(tl.int64)
    else:
        shares = tl.exp((logits - tl.max(logits, axis=0)) / temperature)
        sums = tl.cumsum(shares, axis=0)
        total = tl.max(sums, axis=0)
        below = (total.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)
        point = tl.minimum(tl.load(noise_ptr + held) * total, below)
        code = tl.sum(((sums <= point) & inside).to(tl.int64), axis=0)
    known = tl.load(known_ptr + held)
    code = tl.where(known >= 0, known, code)
    tl.store(tokens_ptr + place, code)
    tl.store(codes_ptr + held, code)


def embedded(memory: Memory, weight_VE: Tensor, first_rows: tuple[int, ...], rows: int) -> Tensor:
    """As `fixed_ops.embedded`; slots are equally far apart."""
    size = weight_VE.shape[1]
    x_RE = weight_VE.new_empty(rows, size)
    condition_RE = memory.condition_RE
    _embed[(rows,)](
        memory.tokens_BL, weight_VE, weight_VE if condition_RE is None else condition_RE, x_RE,
        first_rows[0], first_rows[1] - first_rows[0] if len(first_rows) > 1 else 0, len(memory.tokens_BL),
        L=len(first_rows), E=size, CONDITION=condition_RE is not None, BLOCK=triton.next_power_of_2(size),
    )  # fmt: skip
    return x_RE


def product(x_RE: Tensor, norm: nn.RMSNorm, weight_FE: Tensor) -> Tensor:
    """As `fixed_ops.product`."""
    if len(x_RE) > FEW and not BY_TENSOR_CORES:
        return fixed_ops.product(x_RE, norm, weight_FE)
    y_RF = x_RE.new_empty(len(x_RE), len(weight_FE))
    _start_product(x_RE, weight_FE, y_RF, norm=norm)
    return y_RF


def gated(x_RE: Tensor, norm: nn.RMSNorm, weight_FE: Tensor) -> Tensor:
    """As `fixed_ops.gated`."""
    inner = len(weight_FE) // 2
    y_RF = x_RE.new_empty(len(x_RE), inner)
    if len(x_RE) <= FEW or BY_TENSOR_CORES:
        _start_product(x_RE, weight_FE, y_RF, norm=norm, gated=True)
        return y_RF
    both_RF = functional.linear(norm(x_RE), weight_FE)
    _gate[(triton.cdiv(y_RF.numel(), 1024),)](both_RF, y_RF, y_RF.numel(), F=inner, BLOCK=1024)
    return y_RF


def attended(memory: Memory, layer: int, qkv_RF: Tensor, heads: int) -> Tensor | Parts:
    """As `fixed_ops.attended`, in parts where that is of use."""
    keys_RHWD, values_RHWD = memory.rings[layer]
    rows, _, window, width = keys_RHWD.shape
    parts = 1
    while rows <= FEW and parts < _MOST_PARTS and rows * heads * parts < _PROGRAMS // 2:
        parts *= 2
    out_RSHD = qkv_RF.new_empty(rows, parts, heads, width)
    tops_RSH, totals_RSH = qkv_RF.new_empty(2, rows, parts, heads)
    _attend[(rows * heads, parts)](
        qkv_RF, memory.table_N2D, memory.clock_2, keys_RHWD, values_RHWD, out_RSHD, tops_RSH, totals_RSH,
        window, width**-0.5,
        H=heads, D=width, WIDTH=triton.next_power_of_2(width), BLOCK=_SLOTS, S=parts,
    )  # fmt: skip
    if parts == 1:
        return out_RSHD.flatten(1)
    return Parts(values_RSHD=out_RSHD, tops_RSH=tops_RSH, totals_RSH=totals_RSH)


def add_product(x_RE: Tensor, y_RF: Tensor | Parts, weight_EF: Tensor) -> None:
    """As `fixed_ops.add_product`."""
    if isinstance(y_RF, Tensor) and len(x_RE) > FEW and not BY_TENSOR_CORES:
        fixed_ops.add_product(x_RE, y_RF, weight_EF)
    else:
        _start_product(y_RF, weight_EF, x_RE, add=True)


def drawn(
    memory: Memory, logits_RX: Tensor, temperature_L: Tensor, scale: float, sampling: SamplingConfig
) -> None:
    """As `fixed_ops.drawn`."""
    batch, slots = memory.tokens_BL.shape
    size = logits_RX.shape[1] // slots
    is_cut = 0 < sampling.top_k < size or sampling.top_p < 1.0
    if is_cut and sampling.temperature > 0.0:
        fixed_ops.drawn(memory, logits_RX, temperature_L, scale, sampling)
        return
    _draw[(batch * slots,)](
        logits_RX, temperature_L, memory.noise_NBL, memory.known_NBL, memory.clock_2, memory.tokens_BL,
        memory.codes_NBL, batch, scale, max(sampling.temperature, LEAST_TEMPERATURE),
        L=slots, K=size, BLOCK=triton.next_power_of_2(size), GREEDY=sampling.temperature == 0.0,
        DOUBLE=len(logits_RX) > batch, num_warps=4 if size <= 2048 else 8,
    )  # fmt: skip


def _start_product(
    x: Tensor | Parts,
    weight_FK: Tensor,
    out_RF: Tensor,
    *,
    norm: nn.RMSNorm | None = None,
    gated: bool = False,
    add: bool = False,
) -> None:
    rows, features = out_RF.shape
    width = weight_FK.shape[1]
    scale = weight_FK if norm is None else norm.weight
    eps = 0.0 if norm is None or norm.eps is None else norm.eps
    if isinstance(x, Tensor) and rows > FEW:
        _wide_product[(triton.cdiv(features, _WIDE_FEATURES), triton.cdiv(rows, _WIDE_ROWS))](
            x, weight_FK, scale, out_RF, rows, features, eps,
            K=width, ROWS=_WIDE_ROWS, N=_WIDE_FEATURES, BLOCK=_WIDE_INPUTS,
            NORM=norm is not None, GATED=gated, ADD=add,
        )  # fmt: skip
        return
    if isinstance(x, Parts):
        x_RK, tops, totals = x.values_RSHD, x.tops_RSH, x.totals_RSH
        parts, head = x_RK.shape[1], x_RK.shape[3]
    else:
        x_RK = tops = totals = x
        parts, head = 0, 1
    block = max(4, triton.next_power_of_2(triton.cdiv(features, _PROGRAMS)))
    _product[(triton.cdiv(features, block),)](
        x_RK, tops, totals, weight_FK, scale, out_RF, rows, features, eps,
        K=width, ROWS=triton.next_power_of_2(rows), N=block,
        BLOCK=min(_NUMBERS // block, triton.next_power_of_2(width)),
        NORM=norm is not None, GATED=gated, ADD=add, S=parts, D=head,
    )  # fmt: skip


def fit(weights: list[Tensor]) -> bool:
    """Whether kernels can take these weights of a prior."""
    return all(weight.dtype == torch.float32 and weight.is_contiguous() for weight in weights)
