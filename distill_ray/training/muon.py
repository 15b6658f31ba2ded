"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): momentum whose every
update of a matrix has all its singular values near one. `optimizer.py` gives it the hidden matrices.

The length of an update follows Liu et al. 2025, "Muon is scalable for LLM training", equation 4, so that
AdamW's learning rates are of the same order. Matrices of one shape are treated in one batched product, and
a step that is to be skipped is skipped on the device, neither of which torch.optim.Muon can do.

Shapes: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_MOMENTUM = 0.95
_SAFETY = 1.01
_STEPS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)
_COEFFICIENTS = tuple((one / _SAFETY, three / _SAFETY**3, five / _SAFETY**5) for one, three, five in _STEPS)
"""Of one quintic step after another (Amsel et al. 2025, "The Polar Express", algorithm 1), made for a little
more than there is: the polynomials leave their range at once where bf16 rounds a singular value above one.
Four bring singular values of a thousandth of the norm and more to between 0.42 and 1.56, as useful as five
steps of Jordan et al.
"""
_ROOT_MEAN_SQUARE = 0.2
"""Of an update's elements: AdamW's usual."""
_FULL_STEPS = 1_000
"""Steps before the rate falls with the root of their number: the longer a run, the less it bears of a length
that gradients do not shrink (ARCHITECTURE.md, "Codec").
"""
_LONGEST, _NORM_DECAY = 3.0, 0.99
"""A gradient's norm over the running mean of norms, at most, and that mean's decay."""
_TINY = 1e-7


def orthogonalised(matrices_NRC: Tensor) -> Tensor:
    """Matrices with the singular vectors of `matrices_NRC` and singular values near one; what was below
    a thousandth of the norm stays smaller.
    """
    norm_N11 = torch.linalg.vector_norm(matrices_NRC, dim=(1, 2), keepdim=True, dtype=torch.float32)
    x_NRC = (matrices_NRC / (_SAFETY * norm_N11).clamp(min=_TINY)).to(matrices_NRC.dtype)
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    for straight, square, fourth in _COEFFICIENTS:
        gram = x_NRC.mT @ x_NRC if tall else x_NRC @ x_NRC.mT
        change = torch.baddbmm(gram, gram, gram, beta=square, alpha=fourth)
        factors = (x_NRC, change) if tall else (change, x_NRC)
        x_NRC = torch.baddbmm(x_NRC, *factors, beta=straight)
    orthogonal_NRC: Tensor = x_NRC
    return orthogonal_NRC


def falling(step: int) -> float:
    """The rate of step number `step` (from 0) over what schedule and budget give."""
    return math.sqrt(_FULL_STEPS / max(_FULL_STEPS, step))


class Muon:
    """Trains matrices; the momenta of those of one shape are one tensor.

    Args:
        dtype: of the products; bfloat16 where gradients are of bf16 products and hold no more.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._lr = lr
        self._weight_decay = weight_decay
        self._dtype = dtype
        shaped: dict[torch.Size, list[Tensor]] = {}
        for matrix in matrices:
            assert matrix.ndim == 2
            shaped.setdefault(matrix.shape, []).append(matrix)
        self._groups = list(shaped.values())
        self._momenta = [
            torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self._groups
        ]
        self._usual_norm = torch.zeros((), device=self._momenta[0].device)

    @torch.no_grad()
    def step(self, lr_scale: float, norm: Tensor, sound: Tensor) -> None:
        """Move all matrices by their gradients, of which `norm` is the joint norm. Where the bool scalar
        `sound` is false none moves, and momenta only fade.
        """
        taken, unsound = sound.float(), ~sound
        clip = self._clip(norm, sound)
        lr = self._lr * lr_scale
        for group, momentum_NRC in zip(self._groups, self._momenta, strict=True):
            update_NRC = torch.empty_like(momentum_NRC, dtype=self._dtype)
            torch._foreach_copy_(list(update_NRC), [matrix.grad for matrix in group])  # type: ignore[misc]
            update_NRC.mul_(clip).masked_fill_(unsound, 0.0)
            torch.add(update_NRC, momentum_NRC, alpha=_MOMENTUM, out=momentum_NRC)
            update_NRC.add_(momentum_NRC, alpha=_MOMENTUM)  # Nesterov's
            length = lr * _ROOT_MEAN_SQUARE * math.sqrt(max(group[0].shape))
            torch._foreach_mul_(group, 1.0 - lr * self._weight_decay * taken)
            for matrix, update_RC in zip(group, orthogonalised(update_NRC), strict=True):
                matrix.addcmul_(update_RC, taken, value=-length)

    def _clip(self, norm: Tensor, sound: Tensor) -> Tensor:
        """What to multiply gradients by: 1, but less for one over three times as long as usual, which would
        make all updates alike for as long as momenta last.
        """
        usual = torch.where(self._usual_norm > 0.0, self._usual_norm, norm)
        clip: Tensor = (_LONGEST * usual / norm.clamp(min=_TINY)).clamp(max=1.0)
        self._usual_norm.copy_(
            torch.where(sound, usual.lerp(clip * norm, 1.0 - _NORM_DECAY), self._usual_norm)
        )
        return clip

    def forget(self) -> None:
        """Clear momenta and the usual norm, as before the first step."""
        for momentum_NRC in self._momenta:
            momentum_NRC.zero_()
        self._usual_norm.zero_()

    def state_dict(self) -> dict[str, object]:
        return {"momenta": self._momenta, "usual_norm": self._usual_norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._usual_norm.copy_(state["usual_norm"])
        for own_NRC, momentum_NRC in zip(self._momenta, state["momenta"], strict=True):
            own_NRC.copy_(momentum_NRC)
