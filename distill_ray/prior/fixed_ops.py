"""What a step in fixed memory is made of (`fixed_steps.py`), in torch: the reference, which runs anywhere.

`kernels.py` has the same functions as kernels for NVIDIA GPUs, with the same numbers within rounding.

Legend: B sounds, R rows (twice as many where guidance takes two a sound), L codes in a step, N steps, V rows
of the embedding, E hidden size, F features, H heads, D width of a head, W slots of a ring, K codebook size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_ray.config.generation import SamplingConfig
from distill_ray.prior.drawing import draw
from distill_ray.prior.transformer import rotated


@dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
    """What steps read and write, on the device; its tensors stay where they are.

    clock_2: int64, steps seen so far, and the number of the next one among the N that are held. tokens_BL:
    int64, codes of the step before. noise_NBL: uniform numbers. known_NBL: int64, codes that are not drawn
    but given, -1 elsewhere. table_N2D: cosine and sine of positions. codes_NBL: int64, what was drawn.
    condition_RE: what is added to inputs. rings: of each layer keys and values [R, H, W, D].
    """

    clock_2: Tensor
    tokens_BL: Tensor
    noise_NBL: Tensor
    known_NBL: Tensor
    table_N2D: Tensor
    codes_NBL: Tensor
    condition_RE: Tensor | None
    rings: tuple[tuple[Tensor, Tensor], ...]


def embedded(memory: Memory, weight_VE: Tensor, first_rows: tuple[int, ...], rows: int) -> Tensor:
    """x_RE: the sum of the embeddings of the codes before; those of slot l begin at `first_rows[l]`."""
    x_BE = functional.embedding(memory.tokens_BL[:, 0] + first_rows[0], weight_VE)
    for slot in range(1, len(first_rows)):
        x_BE = x_BE + functional.embedding(memory.tokens_BL[:, slot] + first_rows[slot], weight_VE)
    x_RE = x_BE.repeat(rows // len(x_BE), 1)
    return x_RE if memory.condition_RE is None else x_RE + memory.condition_RE


def product(x_RE: Tensor, norm: nn.RMSNorm, weight_FE: Tensor) -> Tensor:
    """y_RF of the normalised rows."""
    return functional.linear(norm(x_RE), weight_FE)


def gated(x_RE: Tensor, norm: nn.RMSNorm, weight_FE: Tensor) -> Tensor:
    """SwiGLU's inner features [R, F / 2] of the normalised rows."""
    gate, up = product(x_RE, norm, weight_FE).chunk(2, dim=-1)
    return functional.silu(gate) * up


def attended(memory: Memory, layer: int, qkv_RF: Tensor, heads: int) -> Tensor:
    """y_RE: the attention of one step, whose key and value go into the layer's ring."""
    keys_RHWD, values_RHWD = memory.rings[layer]
    position, index = memory.clock_2[:1], memory.clock_2[1:]
    cos_D, sin_D = memory.table_N2D.index_select(0, index)[0]
    query_RHD, key_RHD, value_RHD = qkv_RF.view(len(qkv_RF), 3, heads, -1).unbind(1)
    query_RHD, key_RHD = rotated(query_RHD, cos_D, sin_D), rotated(key_RHD, cos_D, sin_D)
    window = keys_RHWD.shape[2]
    slot = torch.remainder(position, window)
    keys_RHWD.index_copy_(2, slot, key_RHD[:, :, None])
    values_RHWD.index_copy_(2, slot, value_RHD[:, :, None])
    used_1W = (torch.arange(window, device=position.device) <= position)[None]
    y_RH1D = functional.scaled_dot_product_attention(
        query_RHD[:, :, None], keys_RHWD, values_RHWD, attn_mask=used_1W
    )
    return y_RH1D.flatten(1)


def add_product(x_RE: Tensor, y_RF: Tensor, weight_EF: Tensor) -> None:
    """Add the product of what `attended` or `gated` returned to `x_RE`."""
    x_RE.addmm_(y_RF, weight_EF.T)


def drawn(
    memory: Memory, logits_RX: Tensor, temperature_L: Tensor, scale: float, sampling: SamplingConfig
) -> None:
    """Draw the codes of the step; they become the next step's input. `scale` is that of guidance, if any."""
    index = memory.clock_2[1:]
    batch, slots = memory.tokens_BL.shape
    logits_RLK = logits_RX.view(len(logits_RX), slots, -1) / temperature_L[:, None]
    if len(logits_RX) > batch:
        with_BLK, without_BLK = logits_RLK.float().chunk(2)
        logits_RLK = torch.lerp(without_BLK, with_BLK, scale)
    new_BL = draw(logits_RLK, memory.noise_NBL.index_select(0, index)[0], sampling)
    known_BL = memory.known_NBL.index_select(0, index)[0]
    new_BL = torch.where(known_BL >= 0, known_BL, new_BL)
    memory.tokens_BL.copy_(new_BL)
    memory.codes_NBL.index_copy_(0, index, new_BL[None])
