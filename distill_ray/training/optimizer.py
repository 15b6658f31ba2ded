"""AdamW, with Muon for the matrices that are given to it, their schedule and their safety: clipped
gradients, steps with NaN skipped on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from distill_ray.training.muon import Muon

_LEAST_LR = 0.02  # of the peak: the cosine's floor
_LEAST_WARMUP = 0.05  # of the budget: a run shorter than its warm-up still reaches the peak


class Optimizer:
    """AdamW on matrices with weight decay, on everything else without; on `head` at `head_rate` times `lr`.
    Where `muon_rate` is above 0, Muon trains `matrices` at that times `lr`, with weight decay; AdamW's
    gradients are scaled so that the norm of all is at most `clip_norm`.

    A step whose gradient norm is not finite moves nothing and is counted in `skipped`; the decision is made
    on the device, so that the host never waits for it.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip_norm: float,
        no_decay: Iterable[nn.Parameter] = (),
        matrices: Iterable[Tensor] = (),
        muon_rate: float = 0.0,
        head: Iterable[nn.Parameter] = (),
        head_rate: float = 1.0,
        bf16: bool = False,
    ) -> None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.muon: Muon | None = None
        rest = parameters
        if muon_rate > 0.0:
            taken = {id(matrix) for matrix in matrices}
            self.muon = Muon(
                [p for p in parameters if id(p) in taken],
                lr=muon_rate * lr,
                weight_decay=weight_decay,
                dtype=torch.bfloat16 if bf16 else torch.float32,
            )
            rest = [p for p in parameters if id(p) not in taken]
            places = [place for place, p in enumerate(parameters) if id(p) in taken]
            self._places_of_muon = torch.tensor(places, device=parameters[0].device)
        spared = {id(parameter) for parameter in no_decay}
        heads = {id(parameter) for parameter in head}
        # By rate and whether they decay; the first two are there in any case, as in checkpoints of before.
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
        for parameter in rest:
            rate = head_rate if id(parameter) in heads else 1.0
            decays = parameter.ndim >= 2 and id(parameter) not in spared
            groups.setdefault((rate, decays), []).append(parameter)
        self._rates = [rate for rate, _ in groups]
        self.parameters = parameters
        self.lr = lr
        self.clip_norm = clip_norm
        self.skipped = torch.zeros((), device=parameters[0].device)
        self.adamw = torch.optim.AdamW(
            [
                {"params": members, "weight_decay": weight_decay if decays else 0.0}
                for (_, decays), members in groups.items()
            ],
            lr=lr,
            betas=betas,
            fused=True,
        )

    def step(self, lr_scale: float, muon_scale: float = 1.0) -> Tensor:
        """Clip, step unless a gradient is not finite, clear the gradients; the norm before clipping.

        Both scales are of the peak rate; Muon's is multiplied by `muon_scale` too.
        """
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        norm: Tensor = torch.linalg.vector_norm(norms)
        sound = torch.isfinite(norm)
        bad = (~sound).float()
        self.skipped += bad
        for group, rate in zip(self.adamw.param_groups, self._rates, strict=True):
            group["lr"] = self.lr * rate * lr_scale
        # The fused kernel reads both, as torch.amp.GradScaler relies on: it divides gradients by the one,
        # which saves a pass over them, and found_inf 1 skips the step.
        self.adamw.grad_scale = (norm / self.clip_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        self.adamw.found_inf = bad  # type: ignore[attr-defined]
        self.adamw.step()
        if self.muon is not None:
            assert len(gradients) == len(self.parameters)
            own_norm: Tensor = torch.linalg.vector_norm(norms[self._places_of_muon])
            self.muon.step(lr_scale * muon_scale, own_norm, sound)
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def forget_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Clear the moments of `parameter` where the mask `rows` (its leading dimensions) is true."""
        state = self.adamw.state.get(parameter)
        if not state:
            return
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].masked_fill_(rows.reshape(*rows.shape, *[1] * (parameter.ndim - rows.ndim)), 0.0)

    def forget(self) -> None:
        """Clear all moments, as before the first step."""
        for state in self.adamw.state.values():
            for value in state.values():
                value.zero_()
        if self.muon is not None:
            self.muon.forget()

    def state_dict(self) -> dict[str, object]:
        state = {"adamw": self.adamw.state_dict(), "skipped": self.skipped}
        return state if self.muon is None else {**state, "muon": self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.adamw.load_state_dict(state["adamw"])  # type: ignore[arg-type]
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])  # type: ignore[arg-type]
        skipped = state["skipped"]
        assert isinstance(skipped, Tensor)
        self.skipped.copy_(skipped)


def lr_scale(step: int, fraction: float, *, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine over the budget (Loshchilov and Hutter 2017, without restarts).

    `step` counts from 0; `fraction` in [0, 1] is the share of the budget that is used.
    """
    warm = max((step + 1) / max(1, warmup_steps), fraction / _LEAST_WARMUP)
    cosine = _LEAST_LR + (1 - _LEAST_LR) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return min(1.0, warm) * cosine


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether autocast runs in bfloat16: as told, and by default on GPUs."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")
