"""What a second of sound is recognised by, whatever its level, polarity and phases: a patch of mel levels.

Frames of 93 ms see 32 mel bands of 40 Hz to 8 kHz. A patch is 23 of them, 40 ms apart, within one second.
Its levels are floored 40 dB below its loudest one, relieved of the training audio's mean spectrum and of
their own mean, and scaled to length 1. So gain and polarity change nothing, a shift of some milliseconds
little, and so does what a codec adds or loses far below the loudest partials. The distance of two patches is
the Euclidean one, √(2 − 2 cos): 0 for the same sound, about √2 for unrelated ones.

`copies.py` searches with it. Legend: T samples, S frames, M bands, N patches, D = 23 · M values of a patch.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.evaluate.sound import Sound

SECONDS = 1.0
FRAME_SECONDS = 4096 / 44_100
FINE_RATE = 100
"""Frames a second of the sound that is looked for; that of the known audio is COARSE times lower."""
COARSE = 2
SPACING = 4
"""Fine frames from one frame of a patch to the next: 40 ms."""
FRAMES = 23
BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 40.0, 8_000.0
RANGE_DB = 40.0
SILENCE_DB = -60.0
"""Of full scale: a patch whose loudest band stays below it says nothing."""
_FLOOR = 1e-9
_CHUNK_FRAMES = 1024


def fine_hop(sample_rate: int) -> int:
    """Samples from one fine frame to the next."""
    return max(1, round(sample_rate / FINE_RATE))


def patch_samples(sample_rate: int) -> int:
    """Samples that a patch and its finely shifted neighbours look at; shorter sounds end in silence."""
    reach = (FRAMES - 1) * SPACING + COARSE - 1
    return reach * fine_hop(sample_rate) + _frame(sample_rate)


def levels(sound: Sound, step: int, device: torch.device | str = "cpu") -> Tensor:
    """Decibels of full scale [S, M] of frames that begin every `step` fine frames; float32 on `device`.

    Channels are mixed. Memory does not grow with the length but for the result.
    """
    rate = sound.sample_rate
    frame, hop = _frame(rate), step * fine_hop(rate)
    mono_T = sound.audio_CT.detach().float().mean(0).to(device)
    missing = patch_samples(rate) - len(mono_T)
    if missing > 0:
        mono_T = functional.pad(mono_T, (0, missing))
    window = torch.hann_window(frame, device=device)
    size = 1 << (frame - 1).bit_length()
    filters_FM = _filters(rate, size, str(device))
    scale = (2 / float(window.sum())) ** 2
    chunks = []
    frames_ST = mono_T.unfold(0, frame, hop)
    for begin in range(0, len(frames_ST), _CHUNK_FRAMES):
        windowed_ST = frames_ST[begin : begin + _CHUNK_FRAMES] * window
        power_SF = torch.fft.rfft(windowed_ST, size).abs().square() * scale
        chunks.append(10 * torch.log10(power_SF @ filters_FM + _FLOOR))
    return torch.cat(chunks)


def mean_spectrum(levels_SM: Tensor) -> Tensor:
    """Sum over audible frames of their floored levels about their mean [M], and their number last [M + 1]."""
    loudest_S1 = levels_SM.amax(1, keepdim=True)
    audible_SM = torch.maximum(levels_SM, loudest_S1 - RANGE_DB)[loudest_S1[:, 0] > SILENCE_DB]
    centred_SM = audible_SM - audible_SM.mean(1, keepdim=True)
    return torch.cat((centred_SM.sum(0), centred_SM.new_tensor([len(centred_SM)])))


def normalised(patches_NSM: Tensor, mean_M: Tensor) -> Tensor:
    """Patches as vectors of length 1 [N, D]; those of silence are zero, at the same distance √2 of all."""
    loudest_N11 = patches_NSM.amax((1, 2), keepdim=True)
    values = torch.maximum(patches_NSM, loudest_N11 - RANGE_DB) - mean_M
    values = values - values.mean((1, 2), keepdim=True)
    values_ND = values.flatten(1)
    values_ND = functional.normalize(values_ND, eps=1e-6)
    return values_ND.where(loudest_N11[:, 0] > SILENCE_DB, 0.0)


def distances(cosines: Tensor) -> Tensor:
    """√(2 − 2 cos) of inner products of normalised patches."""
    return (2 - 2 * cosines).clamp(min=0).sqrt()


def _frame(sample_rate: int) -> int:
    return round(FRAME_SECONDS * sample_rate)


@functools.lru_cache(maxsize=4)
def _filters(sample_rate: int, size: int, device: str) -> Tensor:
    """Mean over the bins of each band [F, M]; bands above half the rate stay empty."""
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        filters_FM = melscale_fbanks(
            size // 2 + 1, LOWEST_HZ, HIGHEST_HZ, BANDS, sample_rate, mel_scale="slaney"
        )
    shares_FM: Tensor = (filters_FM / filters_FM.sum(0).clamp(min=1e-12)).to(device)
    return shares_FM
