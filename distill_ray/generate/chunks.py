"""Encoding audio that is never whole in memory, PCM blocks → codes, and decoding what is.

Like in `vqvae/streaming.py`, which has the way back, every chunk is computed with the context that its frames
depend on and only its middle is kept, so the result is that of the whole signal.

Legend: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.corpus import PCM_SCALE
from distill_ray.vqvae import VQVAE, decode_blocks

CHUNK_FRAMES = 1024
"""Code frames kept of one pass: 12 s of the usual codec."""


@dataclass(frozen=True, kw_only=True)
class EncodedAudio:
    """Codes on the CPU and the exact length of what they encode."""

    codes_QF: Tensor
    samples: int


@torch.inference_mode()
def encode_blocks(
    model: VQVAE,
    blocks_CT: Iterable[NDArray[np.int16]],
    *,
    levels: int | None = None,
    chunk_frames: int = CHUNK_FRAMES,
    on_frames: Callable[[int], None] | None = None,
) -> EncodedAudio:
    """Codes int64 of consecutive PCM blocks, of at least one sample in all.

    `on_frames` is called with the number of frames encoded so far.
    """
    hop, context = model.config.frame_hop, model.encoder.context_frames
    device = next(model.parameters()).device
    pending_CT = np.zeros((model.config.channels, 0), dtype=np.int16)
    first = done = samples = 0  # frame of pending's first sample; frames whose codes are final
    codes: list[Tensor] = []

    def encode(stop: int | None) -> int:
        """Append the codes from `done` up to frame `stop` (None: to the end); returns their count."""
        audio_CT = torch.from_numpy(pending_CT).to(device).float() / PCM_SCALE
        kept_QF = model.encode(audio_CT[None], levels)[0, :, done - first : stop and stop - first].cpu()
        codes.append(kept_QF)
        if on_frames:
            on_frames(done + kept_QF.shape[1])
        return kept_QF.shape[1]

    for block_CT in blocks_CT:
        pending_CT = np.concatenate((pending_CT, block_CT), axis=1)
        samples += block_CT.shape[1]
        while pending_CT.shape[1] >= (done - first + chunk_frames + context) * hop:
            done += encode(done + chunk_frames)
            keep_from = max(first, done - context)
            pending_CT = pending_CT[:, (keep_from - first) * hop :]
            first = keep_from
    encode(None)
    return EncodedAudio(codes_QF=torch.cat(codes, dim=1), samples=samples)


def decoded(model: VQVAE, codes_QF: Tensor, samples: int) -> Tensor:
    """Audio float32 [C, T] in [-1, 1] on the CPU, of codes on any device."""
    blocks_CT = decode_blocks(model, [codes_QF], samples, chunk_frames=CHUNK_FRAMES)
    return torch.cat([block_CT.cpu() for block_CT in blocks_CT], dim=1)
