"""The decoder-only transformer under `CodePrior`: vectors of steps in, vectors of steps out.

Pre-norm blocks (RMSNorm, Zhang and Sennrich 2019) of rotary attention (Su et al. 2021) and SwiGLU (Shazeer
2020), without biases. Attention is causal over a sliding window: a step sees itself and the window - 1 steps
before it. That is the definition in both paths, so that decoding through `KVCache`, a ring of the last
`window` steps, equals the uncached forward at any length, with bounded memory. Positions enter only as
differences, so no length is too great. With `causal=False` all steps see each other instead.

Dropout draws from torch's default generator of the device: seed that for a reproducible step.

Legend: B batch, S sequence steps, P cached steps, H heads, D width of a head, E hidden size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.prior import fusing

ROTARY_BASE = 10_000.0
_MOST_SEED = 2**31 - 1


class KVCache:
    """Keys and values of the last `window` steps of every layer; step s lives in slot s mod window.

    rings: memory [B, H, window, D] of each layer's keys and values that is used instead of the cache's own.
    """

    def __init__(
        self, num_layers: int, window: int, rings: Sequence[tuple[Tensor, Tensor]] | None = None
    ) -> None:
        self.window = window
        self.length = 0  # steps seen so far, of which the last `window` are kept
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers
        if rings is not None:
            self._keys, self._values = [keys for keys, _ in rings], [values for _, values in rings]
        self._cos_sin: tuple[Tensor, Tensor] | None = None
        self._cos_sin_start = 0

    def layer(self, index: int, like_BHSD: Tensor) -> tuple[Tensor, Tensor]:
        """The key and value rings of a layer, allocated in the shape, type and device of its first keys."""
        keys, values = self._keys[index], self._values[index]
        if keys is None or values is None:
            batch, heads, _, width = like_BHSD.shape
            keys = like_BHSD.new_zeros(batch, heads, self.window, width)
            values = torch.zeros_like(keys)
            self._keys[index], self._values[index] = keys, values
        return keys, values

    def rotary(self, steps: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos_SD, sin_SD of the next `steps` steps, computed a window at a time."""
        first = self.length - self._cos_sin_start
        if self._cos_sin is None or first + steps > self._cos_sin[0].shape[0]:
            count = max(steps, self.window)
            self._cos_sin = rotary_table(self.length, count, width, device)
            self._cos_sin_start, first = self.length, 0
        cos_SD, sin_SD = self._cos_sin
        return cos_SD[first : first + steps], sin_SD[first : first + steps]

    def visible(self, steps: int, device: torch.device) -> Tensor:
        """mask_SX bool, X = slots in use + steps: what each of the next `steps` steps sees of both."""
        used = min(self.length, self.window)
        slots = torch.arange(used, device=device)
        newest = self.length - 1
        cached = newest - torch.remainder(newest - slots, self.window)
        new = self.length + torch.arange(steps, device=device)
        return _sees(new, torch.cat((cached, new)), self.window)


def rotary_table(start: int, steps: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos_SD, sin_SD float32 of steps start … start + steps - 1 for heads of `width`.

    Angles are formed in float64 on the CPU: in float32 a step of a million would be off by 0.06 rad.
    """
    half = torch.arange(0, width, 2, dtype=torch.float64)
    angle = torch.arange(start, start + steps, dtype=torch.float64)[:, None] * ROTARY_BASE ** (-half / width)
    angle_SD = torch.cat((angle, angle), dim=1)
    return angle_SD.cos().float().to(device), angle_SD.sin().float().to(device)


def rotated(x_BHSD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    low, high = x_BHSD.chunk(2, dim=-1)
    return (x_BHSD * cos_SD + torch.cat((-high, low), dim=-1) * sin_SD).to(x_BHSD.dtype)


def _sees(query: Tensor, key: Tensor, window: int) -> Tensor:
    distance = query[:, None] - key[None, :]
    return (distance >= 0) & (distance < window)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """What steps see: what `mask_SX` (bool, X keys) says, or what comes before where it is `causal`, of that
    the last `window` where there is one; otherwise all.
    """

    mask_SX: Tensor | None = None
    causal: bool = False
    window: int | None = None

    def attended(self, query_BHSD: Tensor, key_BHXD: Tensor, value_BHXD: Tensor) -> Tensor:
        """y_BSHD."""
        if self.window is None:
            return functional.scaled_dot_product_attention(
                query_BHSD, key_BHXD, value_BHXD, attn_mask=self.mask_SX, is_causal=self.causal
            ).transpose(1, 2)
        steps = query_BHSD.shape[2]
        # What `scaled_dot_product_attention` calls without a mask; with a mask it goes over all pairs in a
        # kernel half as fast.
        y_BSHD: Tensor = torch.ops.aten._flash_attention_forward(
            query_BHSD.transpose(1, 2), key_BHXD.transpose(1, 2), value_BHXD.transpose(1, 2),
            None, None, steps, steps, 0.0, True, False,
            window_size_left=self.window - 1, window_size_right=0,
        )[0]  # fmt: skip
        return y_BSHD


def _has_sliding_kernel(x: Tensor, width: int) -> bool:
    """Whether flash attention takes heads of `width` in the dtype that products with `x` have."""
    if x.device.type != "cuda" or torch.version.hip is not None or width > 256 or width % 8:
        return False
    dtype = fusing.product_dtype(x)
    return dtype in (torch.bfloat16, torch.float16) and _sliding_runs(x.device, dtype, width)


@functools.cache
def _sliding_runs(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel, which torch calls its own, can be had here, there and back; tried once."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        x_BHSD = torch.ones(1, 1, 16, width, device=device, dtype=dtype, requires_grad=True)
        try:
            y_BSHD = Sight(causal=True, window=8).attended(x_BHSD, x_BHSD, x_BHSD)
            (gradient,) = torch.autograd.grad(y_BSHD.float().sum(), x_BHSD)
        except (RuntimeError, TypeError):
            return False
        return bool((y_BSHD == 1.0).all() and gradient.isfinite().all())


class Attention(nn.Module):
    """Rotary multi-head attention over a sliding window."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self,
        x_BSE: Tensor,
        cos_SD: Tensor,
        sin_SD: Tensor,
        sight: Sight,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        batch, steps, _ = x_BSE.shape
        query, key, value = self.qkv(x_BSE).view(batch, steps, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotated(query, cos_SD, sin_SD), rotated(key, cos_SD, sin_SD)
        if cache is not None:
            key, value = _through_cache(key, value, cache, layer)
        y_BSE: Tensor = self.out(sight.attended(query, key, value).flatten(2))
        return y_BSE


def _through_cache(key_BHSD: Tensor, value_BHSD: Tensor, cache: KVCache, layer: int) -> tuple[Tensor, Tensor]:
    """Store the new steps; returns what they may see (one step: the ring itself, no copy)."""
    keys, values = cache.layer(layer, key_BHSD)
    steps, window = key_BHSD.shape[2], cache.window
    if steps == 1:
        slot, used = cache.length % window, min(cache.length + 1, window)
        keys[:, :, slot], values[:, :, slot] = key_BHSD[:, :, 0], value_BHSD[:, :, 0]
        return keys[:, :, :used], values[:, :, :used]
    used = min(cache.length, window)
    # Copies: the early ones of the new steps still see slots that the late ones take over below.
    all_keys = torch.cat((keys[:, :, :used], key_BHSD), dim=2)
    all_values = torch.cat((values[:, :, :used], value_BHSD), dim=2)
    kept = min(steps, window)
    end = cache.length + steps
    slots = torch.arange(end - kept, end, device=keys.device) % window
    keys.index_copy_(2, slots, key_BHSD[:, :, -kept:])
    values.index_copy_(2, slots, value_BHSD[:, :, -kept:])
    return all_keys, all_values


class SwiGLU(nn.Module):
    """Gated MLP with about the parameters of a plain MLP of four times the width."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner = -(-hidden_size * 8 // 3 // 32) * 32
        self.gate_up = nn.Linear(hidden_size, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden_size, bias=False)

    def forward(self, x_BSE: Tensor) -> Tensor:
        gate, up = self.gate_up(x_BSE).chunk(2, dim=-1)
        y_BSE: Tensor = self.down(functional.silu(gate) * up)
        return y_BSE


class Block(nn.Module):
    """Attention, then MLP, each on a normalised copy and added back."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.attention = Attention(hidden_size, num_heads)
        self.mlp_norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.mlp = SwiGLU(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BSE: Tensor,
        cos_SD: Tensor,
        sin_SD: Tensor,
        sight: Sight,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        y_BSE = self.attention(self.attention_norm(x_BSE), cos_SD, sin_SD, sight, cache, layer)
        x_BSE = x_BSE + self.dropout(y_BSE)
        z_BSE: Tensor = self.dropout(self.mlp(self.mlp_norm(x_BSE)))
        return x_BSE + z_BSE


class Transformer(nn.Module):
    """`num_layers` blocks and a last norm; `window`: steps that a step sees, itself included.

    `usual_steps`: longest sequence whose rotary table is kept on the device; longer ones compute theirs.
    """

    rotary_cos: Tensor
    rotary_sin: Tensor

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        window: int,
        usual_steps: int,
    ) -> None:
        super().__init__()
        self.window = window
        self.head_width = hidden_size // num_heads
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        cos_SD, sin_SD = rotary_table(0, usual_steps, self.head_width, torch.device("cpu"))
        self.register_buffer("rotary_cos", cos_SD, persistent=False)
        self.register_buffer("rotary_sin", sin_SD, persistent=False)
        self._initialise(num_layers)

    def _initialise(self, num_layers: int) -> None:
        # GPT-2's: what is added to the residual stream starts smaller the more layers add to it.
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * num_layers) ** 0.5 if residual else 0.02)

    def new_cache(self) -> KVCache:
        """An empty cache for one batch of sequences."""
        return KVCache(len(self.blocks), self.window)

    def forward(self, x_BSE: Tensor, cache: KVCache | None = None, *, causal: bool = True) -> Tensor:
        """y_BSE of the steps `x_BSE`; with a cache they follow its steps and are added to it.

        causal: whether steps see only the `window` up to themselves; without, all see all (and no cache).
        """
        steps, device = x_BSE.shape[1], x_BSE.device
        if cache is None:
            cos_SD, sin_SD = self._rotary(steps, device)
            sight = self.sight(x_BSE) if causal else Sight()
        else:
            cos_SD, sin_SD = cache.rotary(steps, self.head_width, device)
            sight = Sight(mask_SX=cache.visible(steps, device) if steps > 1 else None)
        if cache is None and fusing.usable(x_BSE):
            return self.through_kernels(x_BSE, cos_SD, sin_SD, sight)
        x_BSE = self.dropout(x_BSE)
        for layer, block in enumerate(self.blocks):
            x_BSE = block(x_BSE, cos_SD, sin_SD, sight, cache, layer)
        if cache is not None:
            cache.length += steps
        y_BSE: Tensor = self.norm(x_BSE)
        return y_BSE

    def through_kernels(self, x_BSE: Tensor, cos_SD: Tensor, sin_SD: Tensor, sight: Sight) -> Tensor:
        """y_BSE of a training step, in the dtype of products."""
        from distill_ray.prior import training_kernels as kernels

        batch, steps, size = x_BSE.shape
        p, dtype = self.dropout.p if self.training else 0.0, fusing.product_dtype(x_BSE)
        count = 2 * len(self.blocks) + 1
        seeds = torch.randint(_MOST_SEED, (count,), device=x_BSE.device) if p else x_BSE.new_zeros(count)
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        norms = [norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)]
        norms.append(self.norm)

        def added(x_NE: Tensor | None, y_NE: Tensor, place: int) -> tuple[Tensor, Tensor]:
            return kernels.add_norm(x_NE, y_NE, norms[place], seeds[place : place + 1], p, dtype)

        x_NE, normed_NE = added(None, x_BSE.reshape(-1, size), 0)
        for layer, block in enumerate(blocks):
            attention, mlp = block.attention, block.mlp
            query, key, value = (
                part_NE.view(batch, steps, attention.num_heads, -1).transpose(1, 2)
                for part_NE in kernels.rotated(attention.qkv(normed_NE), cos_SD, sin_SD)
            )
            y_NE = sight.attended(query, key, value).reshape(batch * steps, size)
            x_NE, normed_NE = added(x_NE, attention.out(y_NE), 2 * layer + 1)
            y_NE = mlp.down(kernels.gated(mlp.gate_up(normed_NE)))
            x_NE, normed_NE = added(x_NE, y_NE, 2 * layer + 2)
        return normed_NE.view(batch, steps, size)

    def sight(self, x_BSE: Tensor) -> Sight:
        """That of steps which see the `window` up to themselves."""
        steps, device = x_BSE.shape[1], x_BSE.device
        if steps <= self.window:
            return Sight(causal=True)
        if _has_sliding_kernel(x_BSE, self.head_width):
            return Sight(causal=True, window=self.window)
        position = torch.arange(steps, device=device)
        return Sight(mask_SX=_sees(position, position, self.window))

    def _rotary(self, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if steps <= self.rotary_cos.shape[0]:
            return self.rotary_cos[:steps], self.rotary_sin[:steps]
        return rotary_table(0, steps, self.head_width, device)
