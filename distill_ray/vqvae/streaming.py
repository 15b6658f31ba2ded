"""Encoding and decoding of long audio in chunks: bounded memory, the result of the whole signal at once.

Encoder and decoder see a bounded number of frames on each side of each output frame (`context_frames`).
Each chunk is computed with that context and only its middle is kept, so that there are no seams.

Shapes: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.vqvae.model import VQVAE


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Frames `start` to `stop` of a signal, and where they lie within the frames computed for them."""

    start: int
    stop: int
    seen_start: int
    seen_stop: int

    @property
    def kept(self) -> slice:
        return slice(self.start - self.seen_start, self.stop - self.seen_start)


def _chunks(frames: int, chunk_frames: int, context: int) -> Iterator[_Chunk]:
    assert chunk_frames >= 1, chunk_frames
    for start in range(0, frames, chunk_frames):
        stop = min(start + chunk_frames, frames)
        seen_start, seen_stop = max(0, start - context), min(frames, stop + context)
        yield _Chunk(start=start, stop=stop, seen_start=seen_start, seen_stop=seen_stop)


@torch.no_grad()
def encode_long(
    model: VQVAE, audio_CT: Tensor, *, chunk_frames: int, num_quantizers: int | None = None
) -> Tensor:
    """Codes of audio of any length, int64 [Q, F] on the CPU.

    Args:
        model: in eval mode, on any device; chunks are moved there.
        audio_CT: floats in [-1, 1], usually on the CPU.
        chunk_frames: code frames kept of each pass; memory grows with it.
        num_quantizers: levels to encode; None is all.

    Raises:
        UsageError: no samples, another number of channels, or more levels than the model has.
    """
    device, hop = next(model.parameters()).device, model.config.frame_hop
    frames = -(-audio_CT.shape[-1] // hop)
    codes = [
        model.encode(
            audio_CT[None, :, chunk.seen_start * hop : chunk.seen_stop * hop].to(device), num_quantizers
        )[0, :, chunk.kept].cpu()
        for chunk in _chunks(frames, chunk_frames, model.encoder.context_frames)
    ]
    if not codes:  # an empty signal: the model words the refusal
        return model.encode(audio_CT[None], num_quantizers)[0]
    return torch.cat(codes, dim=1)


@torch.no_grad()
def decode_long(model: VQVAE, codes_QT: Tensor, *, chunk_frames: int, length: int | None = None) -> Tensor:
    """Audio float32 [C, T] on the CPU of codes of any length; the inverse of `encode_long`.

    Args:
        model: in eval mode, on any device.
        codes_QT: int64, the first levels suffice.
        chunk_frames: code frames kept of each pass.
        length: samples to return; None is all of F · frame_hop.

    Raises:
        UsageError: no frames, codes or levels that the model does not have, or a length beyond the codes.
    """
    device, hop = next(model.parameters()).device, model.config.frame_hop
    frames = codes_QT.shape[-1]
    model.check_codes(codes_QT[None], length)
    length = frames * hop if length is None else length
    audio_CT = torch.empty(model.config.channels, length)
    for chunk in _chunks(frames, chunk_frames, model.decoder.context_frames):
        if chunk.start * hop >= length:
            break
        seen_CT = model.decode(codes_QT[None, :, chunk.seen_start : chunk.seen_stop].to(device))[0]
        kept_CT = seen_CT[:, chunk.kept.start * hop : chunk.kept.stop * hop]
        begin, end = chunk.start * hop, min(chunk.stop * hop, length)
        audio_CT[:, begin:end] = kept_CT[:, : end - begin].cpu()
    return audio_CT
