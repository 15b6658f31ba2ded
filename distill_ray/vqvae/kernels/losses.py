"""Spectral losses (`vqvae/losses.py`) that frame each signal once a window, forward and backward by hand.

Forward leaves the spectra and the gradient of the log-mel distance; backward turns both terms' gradients into
one of the spectra and adds all windows' up at the audio.

Shapes: R rows (batch · views), T samples, F frames, K frequency bins, M mel bins, P programs. Rows of the
reconstruction come first, then those of the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from distill_ray.vqvae.kernels.spectra import overlap_added, power, scaled_gradient, windowed

_BLOCK = 1024
_FILTERS = 80  # in one band


class Window:
    """One transform of the losses: its window [N], hop, mel filters [K, M], whether they count for "bands"
    (`levels`) instead of "mel", and whether the complex term has it, at spectra times `gain`, with the phases
    of the first `phases` bins.

    Filters are triangles: a bin is in two of them at most, and neighbouring filters need few bins, so the
    product with all of them is done in bands, each (first filter, first bin, matrix).
    """

    def __init__(
        self,
        window_N: Tensor,
        hop: int,
        filters_KM: Tensor,
        *,
        levels: bool = False,
        complex_term: bool = False,
        phases: int = 0,
        gain: float = 1.0,
    ) -> None:
        self.window_N, self.hop, self.gain = window_N, hop, gain
        self.levels, self.complex_term, self.phases = levels, complex_term, phases
        self.mels = filters_KM.shape[1]
        filters, device = filters_KM.cpu(), filters_KM.device
        held = filters > 0
        assert int(held.sum(1).max()) <= 2, "a bin in three mel filters"
        self.bands: list[tuple[int, int, Tensor]] = []
        for first in range(0, self.mels, _FILTERS):
            needed = held[:, first : first + _FILTERS].any(1).nonzero()
            low, high = int(needed.min()), int(needed.max()) + 1
            band = filters[low:high, first : first + _FILTERS].contiguous().to(device)
            self.bands.append((first, low, band))
        first_K = held.int().argmax(1).clamp(max=self.mels - 2)
        self.first_K = first_K.to(torch.int32).to(device)
        self.pair_2K = torch.stack([filters.gather(1, (first_K + n)[:, None])[:, 0] for n in (0, 1)]).to(
            device
        )


@dataclass(frozen=True, kw_only=True)
class Scales:
    """The constants of `vqvae/losses.py` and `spectral.py`."""

    tiny: float
    log_floor: float
    exponent: float
    floor: float
    magnitude_share: float


@triton.jit
def _length(scale, energy, tiny):
    """The magnitude of numbers of `energy` times `scale` (`_magnitude` of `vqvae/losses.py`)."""
    return tl.sqrt(scale * scale * energy + tiny)


@triton.jit
def _magnitudes(
    spectra_ptr, out_ptr, parts_ptr, half, tiny, gain, exponent, floor, phases, magnitude_share,
    K: tl.constexpr, COMPLEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Magnitudes of both halves, and the distance of what the complex term compares, twice."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < half
    real = tl.load(spectra_ptr + 2 * at, mask=inside, other=0.0)
    imag = tl.load(spectra_ptr + 2 * at + 1, mask=inside, other=0.0)
    other = spectra_ptr + 2 * (at + half)
    other_real = tl.load(other, mask=inside, other=0.0)
    other_imag = tl.load(other + 1, mask=inside, other=0.0)
    energy = real * real + imag * imag
    other_energy = other_real * other_real + other_imag * other_imag
    tl.store(out_ptr + at, tl.sqrt(energy + tiny), mask=inside)
    tl.store(out_ptr + at + half, tl.sqrt(other_energy + tiny), mask=inside)
    if COMPLEX:
        scale = gain * power(gain * gain * energy + floor, exponent)
        other_scale = gain * power(gain * gain * other_energy + floor, exponent)
        apart = tl.abs(scale * real - other_scale * other_real)
        apart += tl.abs(scale * imag - other_scale * other_imag)
        length, other_length = _length(scale, energy, tiny), _length(other_scale, other_energy, tiny)
        apart = tl.where(at % K < phases, apart, 2 * magnitude_share * tl.abs(length - other_length))
        tl.store(parts_ptr + tl.program_id(0), tl.sum(tl.where(inside, apart, 0.0), axis=0))


@triton.jit
def _log_distance(mel_ptr, grad_ptr, parts_ptr, half, width, mels, floor, BLOCK: tl.constexpr):
    """Distance of the halves' log10 of a band of `width` mel magnitudes; the gradient of its sum goes to the
    band's columns of [rows, mels].
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < half
    ours = tl.load(mel_ptr + at, mask=inside, other=0.0) + floor
    theirs = tl.load(mel_ptr + half + at, mask=inside, other=0.0) + floor
    # log10(2), and log10(e) below
    apart = 0.30102999566398120 * (tl.log2(ours) - tl.log2(theirs))
    sign = tl.where(apart > 0, 1.0, 0.0) - tl.where(apart < 0, 1.0, 0.0)
    tl.store(grad_ptr + at // width * mels + at % width, sign * 0.43429448190325183 / ours, mask=inside)
    tl.store(parts_ptr + tl.program_id(0), tl.sum(tl.where(inside, tl.abs(apart), 0.0), axis=0))


@triton.jit
def _spectra_gradient(
    spectra_ptr, mel_ptr, first_ptr, pair_ptr, grad_mel_ptr, grad_complex_ptr, out_ptr, half, mels,
    mel_share, complex_share, tiny, gain, exponent, floor, phases, magnitude_share,
    K: tl.constexpr, COMPLEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of the first half's spectra, halved where the inverse FFT will count a bin twice."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < half
    real = tl.load(spectra_ptr + 2 * at, mask=inside, other=0.0)
    imag = tl.load(spectra_ptr + 2 * at + 1, mask=inside, other=0.0)
    energy = real * real + imag * imag
    k = at % K
    mel = mel_ptr + at // K * mels + tl.load(first_ptr + k, mask=inside, other=0)
    along = tl.load(pair_ptr + k, mask=inside, other=0.0) * tl.load(mel, mask=inside, other=0.0)
    along += tl.load(pair_ptr + K + k, mask=inside, other=0.0) * tl.load(mel + 1, mask=inside, other=0.0)
    along *= tl.load(grad_mel_ptr) * mel_share / tl.sqrt(energy + tiny)
    out_real, out_imag = along * real, along * imag
    if COMPLEX:
        share = tl.load(grad_complex_ptr) * complex_share
        other = spectra_ptr + 2 * (at + half)
        other_real = gain * tl.load(other, mask=inside, other=0.0)
        other_imag = gain * tl.load(other + 1, mask=inside, other=0.0)
        other_energy = other_real * other_real + other_imag * other_imag + floor
        scale = power(gain * gain * energy + floor, exponent)
        other_scale = power(other_energy, exponent)
        apart_real = scale * gain * real - other_scale * other_real
        apart_imag = scale * gain * imag - other_scale * other_imag
        sign_real = tl.where(apart_real > 0, share, 0.0) - tl.where(apart_real < 0, share, 0.0)
        sign_imag = tl.where(apart_imag > 0, share, 0.0) - tl.where(apart_imag < 0, share, 0.0)
        # above `phases`, along the compressed number
        length = _length(gain * scale, energy, tiny)
        apart = length - _length(other_scale, other_real * other_real + other_imag * other_imag, tiny)
        share *= 2 * magnitude_share * gain * scale / length
        sign = tl.where(apart > 0, share, 0.0) - tl.where(apart < 0, share, 0.0)
        sign_real = tl.where(k < phases, sign_real, sign * real)
        sign_imag = tl.where(k < phases, sign_imag, sign * imag)
        more_real, more_imag = scaled_gradient(
            gain * real, gain * imag, sign_real, sign_imag, floor, exponent
        )
        out_real += gain * more_real
        out_imag += gain * more_imag
    weight = tl.where((k == 0) | (k == K - 1), 1.0, 0.5)
    tl.store(out_ptr + 2 * at, weight * out_real, mask=inside)
    tl.store(out_ptr + 2 * at + 1, weight * out_imag, mask=inside)


class SpectralLosses(torch.autograd.Function):
    """The "mel", "bands" and "complex_stft" terms of `ReconstructionLoss` for audio float32 [R, T]."""

    @staticmethod
    def forward(
        ctx: Any, pred_RT: Tensor, target_RT: Tensor, windows: tuple[Window, ...], scales: Scales
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = len(pred_RT)
        joined_RT = torch.cat([pred_RT, target_RT])
        mel, bands, complex_term = (pred_RT.new_zeros(()) for _ in range(3))
        shares = _shares(windows)
        complex_windows = sum(window.complex_term for window in windows)
        saved: list[Tensor] = []
        for window in windows:
            spectra_RFK = torch.fft.rfft(windowed(joined_RT, window.window_N, window.hop))
            frames, bins = spectra_RFK.shape[1:]
            half = rows * frames * bins
            magnitudes = torch.empty(2 * rows * frames, bins, device=pred_RT.device)
            programs = triton.cdiv(half, _BLOCK)
            parts_P = torch.empty(programs, device=pred_RT.device)
            _magnitudes[(programs,)](
                torch.view_as_real(spectra_RFK), magnitudes, parts_P, half, scales.tiny, window.gain,
                (scales.exponent - 1) / 2, scales.floor**2, window.phases, scales.magnitude_share,
                K=bins, COMPLEX=window.complex_term, BLOCK=_BLOCK,
            )  # fmt: skip
            if window.complex_term:
                complex_term = complex_term + parts_P.sum() / (2 * half * complex_windows)
            grad_mel = torch.empty(rows * frames, window.mels, device=pred_RT.device)
            for first, low, filters in window.bands:
                height, width = filters.shape
                mels = magnitudes[:, low : low + height] @ filters
                half = mels.numel() // 2
                programs = triton.cdiv(half, _BLOCK)
                parts_P = torch.empty(programs, device=pred_RT.device)
                _log_distance[(programs,)](
                    mels,
                    grad_mel[:, first:],
                    parts_P,
                    half,
                    width,
                    window.mels,
                    scales.log_floor,
                    BLOCK=_BLOCK,
                )
                distance = parts_P.sum() * (shares[window.levels] / grad_mel.numel())
                if window.levels:
                    bands = bands + distance
                else:
                    mel = mel + distance
            saved += [spectra_RFK, grad_mel]
        ctx.save_for_backward(*saved)
        ctx.settings = (rows, pred_RT.shape[1], windows, scales)
        return mel, bands, complex_term

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_mel, grad_bands, grad_complex = grads
        rows, length, windows, scales = ctx.settings
        saved, shares = ctx.saved_tensors, _shares(windows)
        complex_windows = sum(window.complex_term for window in windows)
        out_RT = torch.empty(rows, length, device=grad_mel.device)
        for index, window in enumerate(windows):
            spectra_RFK, mel_grad = saved[2 * index : 2 * index + 2]
            frames, bins = spectra_RFK.shape[1:]
            half = rows * frames * bins  # the original's rows come after
            grad_spectra = torch.empty(rows, frames, bins, 2, device=out_RT.device)
            _spectra_gradient[(triton.cdiv(half, _BLOCK),)](
                torch.view_as_real(spectra_RFK), mel_grad, window.first_K, window.pair_2K,
                grad_bands if window.levels else grad_mel, grad_complex, grad_spectra, half, window.mels,
                shares[window.levels] / mel_grad.numel(), 1 / (2 * half * max(1, complex_windows)),
                scales.tiny, window.gain, (scales.exponent - 1) / 2, scales.floor**2,
                window.phases, scales.magnitude_share, K=bins, COMPLEX=window.complex_term, BLOCK=_BLOCK,
            )  # fmt: skip
            waves_RFN = torch.fft.irfft(
                torch.view_as_complex(grad_spectra), n=len(window.window_N), norm="forward"
            )
            overlap_added(waves_RFN, window.window_N, window.hop, out_RT, add=index > 0)
        return out_RT, None, None, None


def _shares(windows: tuple[Window, ...]) -> tuple[float, float]:
    """A window's share of "mel", and of "bands"."""
    levels = sum(window.levels for window in windows)
    return 1 / max(1, len(windows) - levels), 1 / max(1, levels)


def spectral_losses(
    pred_RT: Tensor, target_RT: Tensor, windows: tuple[Window, ...], scales: Scales
) -> tuple[Tensor, Tensor, Tensor]:
    """`SpectralLosses`: scalars "mel", "bands" and "complex_stft"; the original has no gradient."""
    terms: tuple[Tensor, Tensor, Tensor] = SpectralLosses.apply(
        pred_RT.contiguous(), target_RT.contiguous(), windows, scales
    )
    return terms
