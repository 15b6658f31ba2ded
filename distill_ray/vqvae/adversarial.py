"""Losses of the adversarial stage, on the judgements of `discriminator.py`, and their balance against the
reconstruction loss.

Everything is a mean over items, so that the mean over DDP ranks with equal shards is the loss of the joined
batch.

Shapes: B batch, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.vqvae.discriminator import Judgement

Judgements = Sequence[Judgement]

_TINY = 1e-8


def discriminator_loss(real: Judgements, fake: Judgements, *, kind: str) -> Tensor:
    """What the discriminators lower, a mean over them.

    kind: "hinge" (Lim & Ye 2017, "Geometric GAN") or "lsgan" (Mao et al. 2017).
    """
    if kind == "hinge":
        losses = [
            functional.relu(1 - one.logits.float()).mean() + functional.relu(1 + other.logits.float()).mean()
            for one, other in zip(real, fake, strict=True)
        ]
    else:
        losses = [
            (1 - one.logits.float()).square().mean() + other.logits.float().square().mean()
            for one, other in zip(real, fake, strict=True)
        ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: Judgements, *, kind: str) -> Tensor:
    """What the codec lowers to pass for a recording, a mean over the discriminators."""
    if kind == "hinge":
        return torch.stack([-each.logits.float().mean() for each in fake]).mean()
    return torch.stack([(1 - each.logits.float()).square().mean() for each in fake]).mean()


def feature_matching_loss(real: Judgements, fake: Judgements) -> Tensor:
    """L1 distance of activations over the mean magnitude of the recording's (Défossez et al. 2022, EnCodec,
    eq. 3, there for the whole batch), a mean over items, layers and discriminators. `real` gets no gradient.
    """
    distances = []
    for one, other in zip(real, fake, strict=True):
        for target, value in zip(one.features, other.features, strict=True):
            target = target.detach().flatten(1)
            apart_B = (value.flatten(1) - target).abs().mean(1, dtype=torch.float32)
            distances.append(apart_B / target.abs().mean(1, dtype=torch.float32).clamp(min=_TINY))
    return torch.stack(distances).mean()


def balanced_gradient(base_BCT: Tensor, other_BCT: Tensor, share: float) -> Tensor:
    """`base_BCT` plus `other_BCT` scaled to `share` times the norm of `base_BCT`, item by item.

    EnCodec's balancer (Défossez et al. 2022, section 3.4) scales by moving averages of norms over the batch.
    Norms of items need no memory, and ranks need not exchange them.
    """
    base_B, other_B = (value.flatten(1).norm(dim=1) for value in (base_BCT, other_BCT))
    scale_B = share * base_B / other_B.clamp(min=_TINY)
    balanced_BCT: Tensor = base_BCT + scale_B[:, None, None] * other_BCT
    return balanced_BCT
