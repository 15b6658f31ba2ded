"""Framing, overlap-add and power-law spectra in single kernels around cuFFT.

What `spectral.py` does with views. `features` is the front of the encoder, `synthesis` the end of the
decoder; `losses.py` here builds on the same kernels.

Shapes: R rows of audio (batch · channels), T samples, F frames, N window samples (n_fft), K = N / 2 + 1
bins, B batch, C channels, S frames, E features (2 · C · K or 3 · C · K) padded to a multiple of `ALIGNMENT`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from distill_ray.vqvae.kernels import product_dtype

ALIGNMENT = 8
"""Matrix products of 16-bit numbers want rows of whole 16 bytes; 1026 features are not."""
_BLOCK = 1024


@triton.jit
def _envelope(window_ptr, place, frames, hop, N: tl.constexpr, OVERLAP: tl.constexpr):
    """Sum of squared windows at `place`, counted from the start of frame 0."""
    total = tl.zeros_like(place).to(tl.float32)
    for back in tl.static_range(OVERLAP):
        frame = place // hop - back
        there = (frame >= 0) & (frame < frames) & (place >= 0)
        value = tl.load(window_ptr + place - frame * hop, mask=there, other=0.0)
        total += value * value
    return total


@triton.jit
def _frames(
    audio_ptr, window_ptr, out_ptr, length, frames, hop, padding, count, scale,
    N: tl.constexpr, OVERLAP: tl.constexpr, ENVELOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Windowed frames [R, F, N] of audio [R, T]; with ENVELOPE of audio over the sum of squared windows."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    sample, frame = at % N, (at // N) % frames
    place = frame * hop + sample
    t = place - padding
    there = inside & (t >= 0) & (t < length)
    value = tl.load(audio_ptr + at // (N * frames) * length + t, mask=there, other=0.0).to(tl.float32)
    if ENVELOPE:
        total = _envelope(window_ptr, place, frames, hop, N, OVERLAP)
        value = value / tl.where(there, total, 1.0)
    window = tl.load(window_ptr + sample, mask=inside, other=0.0)
    tl.store(out_ptr + at, scale * value * window, mask=inside)


@triton.jit
def _overlap_add(
    frames_ptr, window_ptr, out_ptr, length, frames, hop, padding, count, scale,
    N: tl.constexpr, OVERLAP: tl.constexpr, ENVELOPE: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Audio [R, T] of windowed frames [R, F, N]: the transpose of `_frames`, or with ENVELOPE its inverse."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    row = at // length
    place = at % length + padding
    total = tl.zeros([BLOCK], tl.float32)
    for back in tl.static_range(OVERLAP):
        frame = place // hop - back
        there = inside & (frame >= 0) & (frame < frames)
        sample = place - frame * hop
        value = tl.load(frames_ptr + (row * frames + frame) * N + sample, mask=there, other=0.0)
        total += value * tl.load(window_ptr + sample, mask=there, other=0.0)
    total *= scale
    if ENVELOPE:
        under = _envelope(window_ptr, place, frames, hop, N, OVERLAP)
        total = total / tl.where(inside, under, 1.0)
    if ADD:
        total += tl.load(out_ptr + at, mask=inside, other=0.0)
    tl.store(out_ptr + at, total, mask=inside)


@triton.jit
def power(x, exponent):
    return tl.exp2(exponent * tl.log2(x))


@triton.jit
def scaled_gradient(real, imag, grad_real, grad_imag, floor, exponent):
    """Gradient through z · (|z|² + floor) ** exponent, which compresses or expands magnitudes."""
    energy = real * real + imag * imag + floor
    scale = power(energy, exponent)
    along = 2.0 * exponent * scale / energy * (grad_real * real + grad_imag * imag)
    return scale * grad_real + along * real, scale * grad_imag + along * imag


@triton.jit
def _to_features(
    spectra_ptr, out_ptr, frames, channels, pairs, count, exponent, floor,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Complex [B, C, S, K] → compressed real and imaginary parts [B, S, E]; `pairs` is E / 2."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    pair, item = at % pairs, at // (pairs * frames)
    frame = (at // pairs) % frames
    channel = pair // K
    there = inside & (channel < channels)
    source = spectra_ptr + 2 * (((item * channels + channel) * frames + frame) * K + pair % K)
    real = tl.load(source, mask=there, other=0.0)
    imag = tl.load(source + 1, mask=there, other=0.0)
    scale = power(real * real + imag * imag + floor, exponent)
    tl.store(out_ptr + 2 * at, (real * scale).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + 2 * at + 1, (imag * scale).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _magnitude(gain):
    """The magnitude of a gain over the loudest one, and its derivative."""
    grown = tl.exp(tl.minimum(gain, 0.0))
    return tl.where(gain < 0.0, grown, 1.0 + gain), grown


@triton.jit
def _to_spectra(
    parts_ptr, out_ptr, frames, channels, width, count, loudest, floor,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gains and directions [B, S, E] → complex [B, C, S, K] (`spectral.directed`)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    k, frame = at % K, (at // K) % frames
    channel, item = (at // (K * frames)) % channels, at // (K * frames * channels)
    source = parts_ptr + (item * frames + frame) * width + channel * K + k
    gain = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    real = tl.load(source + channels * K, mask=inside, other=0.0).to(tl.float32)
    imag = tl.load(source + 2 * channels * K, mask=inside, other=0.0).to(tl.float32)
    share, _ = _magnitude(gain)
    size = tl.where((k == 0) | (k == K - 1), 0.0, loudest * share)
    size *= tl.rsqrt(real * real + imag * imag + floor)
    tl.store(out_ptr + 2 * at, size * real, mask=inside)
    tl.store(out_ptr + 2 * at + 1, size * imag, mask=inside)


@triton.jit
def _to_spectra_backward(
    parts_ptr, grad_ptr, out_ptr, frames, channels, width, count, loudest, floor,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From the transform [B, C, S, K] of the frames' gradient to the gradient of the parts [B, S, E].

    The inverse transform counts every bin but the first and the last twice, and those are zero.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    k, frame = at % K, (at // K) % frames
    channel, item = (at // (K * frames)) % channels, at // (K * frames * channels)
    place = (item * frames + frame) * width + channel * K + k
    apart = channels * K
    gain = tl.load(parts_ptr + place, mask=inside, other=0.0).to(tl.float32)
    real = tl.load(parts_ptr + place + apart, mask=inside, other=0.0).to(tl.float32)
    imag = tl.load(parts_ptr + place + 2 * apart, mask=inside, other=0.0).to(tl.float32)
    weight = tl.where((k == 0) | (k == K - 1), 0.0, 2.0 * loudest)
    grad_real = weight * tl.load(grad_ptr + 2 * at, mask=inside, other=0.0)
    grad_imag = weight * tl.load(grad_ptr + 2 * at + 1, mask=inside, other=0.0)
    share, slope = _magnitude(gain)
    over = tl.rsqrt(real * real + imag * imag + floor)
    size = share * over
    along = grad_real * real + grad_imag * imag
    kept = out_ptr.dtype.element_ty
    tl.store(out_ptr + place, (slope * over * along).to(kept), mask=inside)
    tl.store(out_ptr + place + apart, (size * (grad_real - over * over * along * real)).to(kept), mask=inside)
    tl.store(
        out_ptr + place + 2 * apart, (size * (grad_imag - over * over * along * imag)).to(kept), mask=inside
    )


def windowed(
    audio_RT: Tensor, window_N: Tensor, hop: int, *, envelope: bool = False, scale: float = 1.0
) -> Tensor:
    """Frames [R, F, N] of audio [R, T], whose last hop may be incomplete (`Stft.forward` before its FFT)."""
    rows, length = audio_RT.shape
    n_fft = len(window_N)
    frames = triton.cdiv(length, hop)
    out_RFN = torch.empty(rows, frames, n_fft, device=audio_RT.device)
    count = out_RFN.numel()
    _frames[(triton.cdiv(count, _BLOCK),)](
        audio_RT, window_N, out_RFN, length, frames, hop, (n_fft - hop) // 2, count, scale,
        N=n_fft, OVERLAP=n_fft // hop, ENVELOPE=envelope, BLOCK=_BLOCK,
    )  # fmt: skip
    return out_RFN


def overlap_added(
    frames_RFN: Tensor,
    window_N: Tensor,
    hop: int,
    out_RT: Tensor,
    *,
    envelope: bool = False,
    add: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Write (or with `add`, add) the overlapped sum of windowed frames to audio [R, T]."""
    rows, frames, n_fft = frames_RFN.shape
    count = out_RT.numel()
    _overlap_add[(triton.cdiv(count, _BLOCK),)](
        frames_RFN, window_N, out_RT, out_RT.shape[1], frames, hop, (n_fft - hop) // 2, count, scale,
        N=n_fft, OVERLAP=n_fft // hop, ENVELOPE=envelope, ADD=add, BLOCK=_BLOCK,
    )  # fmt: skip
    assert rows == len(out_RT)
    return out_RT


def padded(count: int) -> int:
    """E for so many features."""
    return -(-count // ALIGNMENT) * ALIGNMENT


def features(audio_BCT: Tensor, window_N: Tensor, hop: int, *, exponent: float, floor: float) -> Tensor:
    """Compressed spectra of audio for the encoder's first product: [B, S, E]. Has no gradient."""
    batch, channels, length = audio_BCT.shape
    spectra_RSK = torch.fft.rfft(windowed(audio_BCT.reshape(-1, length).float(), window_N, hop))
    frames, bins = spectra_RSK.shape[1:]
    pairs = padded(2 * channels * bins) // 2
    out_BSE = torch.empty(batch, frames, 2 * pairs, device=audio_BCT.device, dtype=product_dtype(audio_BCT))
    count = batch * frames * pairs
    _to_features[(triton.cdiv(count, _BLOCK),)](
        torch.view_as_real(spectra_RSK), out_BSE, frames, channels, pairs, count,
        (exponent - 1) / 2, floor**2, K=bins, BLOCK=_BLOCK,
    )  # fmt: skip
    return out_BSE


class Synthesis(torch.autograd.Function):
    """Gains and directions [B, S, E] → audio float32 [B, C, S · hop]: spectra, inverse FFT, overlap-add."""

    @staticmethod
    def forward(
        ctx: Any,
        parts_BSE: Tensor,
        window_N: Tensor,
        hop: int,
        channels: int,
        loudest: float,
        floor: float,
    ) -> Tensor:
        parts_BSE = parts_BSE.contiguous()
        batch, frames, width = parts_BSE.shape
        n_fft = len(window_N)
        bins = n_fft // 2 + 1
        assert width == padded(3 * channels * bins), (width, channels, bins)
        spectra = torch.empty(batch * channels, frames, bins, 2, device=parts_BSE.device)
        count = spectra.numel() // 2
        _to_spectra[(triton.cdiv(count, _BLOCK),)](
            parts_BSE, spectra, frames, channels, width, count, loudest, floor, K=bins, BLOCK=_BLOCK,
        )  # fmt: skip
        waves_RSN = torch.fft.irfft(torch.view_as_complex(spectra), n=n_fft, norm="forward")
        audio_RT = torch.empty(batch * channels, frames * hop, device=parts_BSE.device)
        overlap_added(waves_RSN, window_N, hop, audio_RT, envelope=True, scale=1 / n_fft)
        ctx.save_for_backward(parts_BSE, window_N)
        ctx.settings = (hop, channels, loudest, floor)
        return audio_RT.view(batch, channels, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parts_BSE, window_N = ctx.saved_tensors
        hop, channels, loudest, floor = ctx.settings
        batch, frames, width = parts_BSE.shape
        n_fft = len(window_N)
        grad_RT = grads[0].reshape(batch * channels, -1).contiguous()
        waves_RSN = windowed(grad_RT, window_N, hop, envelope=True, scale=1 / n_fft)
        grad_RSK = torch.fft.rfft(waves_RSN)
        out_BSE = torch.zeros_like(parts_BSE)  # what pads it stays so
        count = grad_RSK.numel()
        _to_spectra_backward[(triton.cdiv(count, _BLOCK),)](
            parts_BSE, torch.view_as_real(grad_RSK), out_BSE, frames, channels, width, count, loudest, floor,
            K=n_fft // 2 + 1, BLOCK=_BLOCK,
        )  # fmt: skip
        return out_BSE, None, None, None, None, None


def synthesis(
    parts_BSE: Tensor, window_N: Tensor, hop: int, *, channels: int, loudest: float, floor: float
) -> Tensor:
    """`Synthesis`; `loudest` and `floor` as for `spectral.directed`."""
    audio_BCT: Tensor = Synthesis.apply(parts_BSE, window_N, hop, channels, loudest, floor)
    return audio_BCT
