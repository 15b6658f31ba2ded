"""What a prior has learnt of each level: what it saves of the cost of the level's histogram.

Legend: Q RVQ levels, T code frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill_ray.prior.histogram import level_histogram_nats
from distill_ray.prior.model import CodePrior
from distill_ray.prior.windows import validation_windows

_BATCH = 16


@torch.inference_mode()
def level_gains(prior: CodePrior, train: Sequence[Tensor], held_out: Sequence[Tensor]) -> tuple[float, ...]:
    """For each level the share of the histogram's cost of `held_out` ([Q, T] each) that the prior saves.

    0 where it costs as much, below 0 where it costs more. The histogram is that of `train`.
    """
    prior.eval()
    device = next(prior.parameters()).device
    nats_Q = torch.zeros(prior.config.num_quantizers, dtype=torch.float64)
    codes_Q = torch.zeros_like(nats_Q)
    for windows in validation_windows(list(held_out), prior.config.training_frames, _BATCH, device=device):
        output = prior(windows.codes_BQT, lengths_B=windows.lengths_B, starts_B=windows.starts_B)
        nats_Q += output.nats_Q.double().cpu()
        codes_Q += output.codes_Q.double().cpu()
    known_Q = level_histogram_nats(train, held_out, prior.config.codebook_size)
    return tuple((1.0 - nats_Q / codes_Q / known_Q).tolist())
