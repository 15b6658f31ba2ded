"""Encoding and decoding of long audio in chunks: bounded memory, the result of the whole signal at once.

Encoder and decoder see a bounded number of frames on each side of each output frame (`context_frames`).
Each chunk is computed with that context and only its middle is kept, so that there are no seams. Decoding
also takes codes that are only being made: its latency is a chunk and the context after it.

Shapes: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_ray.errors import UsageError
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
def decode_latents(model: VQVAE, latent_FL: Tensor, *, chunk_frames: int) -> Tensor:
    """Audio float32 [C, F · frame_hop] on the CPU, not clamped, of latents on the model's device.

    Args:
        model: in eval mode.
        chunk_frames: code frames of each pass; memory on the device grows with it.
    """
    stream, frames = model.decoder.stream(), len(latent_FL)
    parts = [
        stream.push(
            latent_FL[None, chunk.seen_start : chunk.seen_stop], chunk.kept, last=chunk.stop == frames
        )[0].cpu()
        for chunk in _chunks(frames, chunk_frames, model.decoder.context_frames)
    ]
    return torch.cat(parts, dim=1)


def decode_blocks(
    model: VQVAE,
    blocks_QF: Iterable[Tensor],
    samples: int,
    *,
    chunk_frames: int,
    on_frames: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Audio float32 [C, T] of one sound on the model's device, block by block as its codes come in.

    As `decode_batches`, of codes int64 [Q, F].
    """
    blocks_BQF = (block_QF[None] for block_QF in blocks_QF)
    for audio_BCT in decode_batches(
        model, blocks_BQF, samples, chunk_frames=chunk_frames, on_frames=on_frames
    ):
        yield audio_BCT[0]


@torch.no_grad()
def decode_batches(
    model: VQVAE,
    blocks_BQF: Iterable[Tensor],
    samples: int,
    *,
    chunk_frames: int,
    on_frames: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Audio float32 [B, C, T] of a batch of sounds on the model's device, block by block as their codes come.

    The codes may be whole or arrive in blocks of any size: a block of audio is computed once the
    `chunk_frames` frames that it stands for and the `context_frames` after them are there, and no further
    codes are asked for before it is taken. However the codes are cut, the audio is the same to the last bit.
    A decoder of magnitudes gives four frames at a time, with the frame after them.

    Args:
        model: in eval mode, on any device.
        blocks_BQF: int64, consecutive in time, each of at least one frame; the first levels suffice.
        samples: how many the blocks of audio hold in all, at most those of all codes.
        chunk_frames: code frames of a block of audio; memory and latency grow with it.
        on_frames: called with the number of frames decoded so far.

    Raises:
        UsageError: no samples; and when the codes in question come up, codes or levels that the model does
            not have, or fewer of them than `samples` need.
    """
    assert chunk_frames >= 1, chunk_frames
    if samples < 1:
        raise UsageError(f"{samples} samples cannot be decoded; ask for at least one")
    hop, context = model.config.frame_hop, model.decoder.context_frames
    device = next(model.parameters()).device
    wanted = -(-samples // hop)  # frames
    stream = model.decoder.stream()
    held: list[Tensor] = []  # consecutive blocks from frame `first` up to frame `come`
    first = come = done = told = 0

    def decode(stop: int) -> Iterator[Tensor]:
        """What frames `done` to `stop` settle, where that is any; forgets what no later frame depends on."""
        nonlocal first, done, told
        held_BQF = torch.cat(held, dim=2) if len(held) > 1 else held[0]
        seen_start, seen_stop = max(0, done - context), min(come, stop + context)
        seen_BQF = held_BQF[:, :, seen_start - first : seen_stop - first].to(device)
        model.check_codes(seen_BQF)
        own = slice(done - seen_start, min(stop, wanted) - seen_start)
        settled_BCT = stream.push(model.quantizer.decode(seen_BQF), own, last=stop >= wanted)
        audio_BCT = settled_BCT[:, :, : samples - told].clamp(-1.0, 1.0)
        forgotten = max(first, stop - context)
        held[:] = [held_BQF[:, :, forgotten - first :]]
        first, done, told = forgotten, stop, told + audio_BCT.shape[2]
        if on_frames is not None:
            on_frames(done)
        if audio_BCT.shape[2] > 0:
            yield audio_BCT

    for block_BQF in blocks_BQF:
        held.append(block_BQF)
        come += block_BQF.shape[2]
        while done < wanted and come >= done + chunk_frames + context:
            yield from decode(done + chunk_frames)
        if done >= wanted:
            return
    if samples > come * hop:
        raise UsageError(f"{samples} samples cannot be decoded: the codes hold {come * hop}")
    while done < wanted:
        yield from decode(min(done + chunk_frames, come))
