"""Audio from a notebook → the PCM that a codec takes: arrays and tensors of any rate, scale and shape.

The counterpart for files is `corpus/decode.py`; both mix and resample alike.
Legend: C channels, T samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from distill_ray.argument_types import shown
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import PCM_SCALE
from distill_ray.corpus.decode import GREATEST_RATE, LEAST_RATE, load_resampling
from distill_ray.errors import AudioError

MOST_CHANNELS = 64
"""More rows than this are samples: the array has its axes the other way round."""


def to_pcm(audio: ArrayLike | Tensor, sample_rate: float, config: VQVAEConfig) -> NDArray[np.int16]:
    """`audio` [T] or [C, T] as int16 [C', T'] at the rate and with the channels of `config`.

    Floats have full scale at ±1; integers at the limits of their type (uint8 around 128). Mono is the mean
    of all channels; stereo is the first two, or the only one twice.

    Raises AudioError for another shape or type, no samples, a rate out of range, NaN or infinite samples.
    """
    known = isinstance(sample_rate, int | float | np.number) and math.isfinite(sample_rate)
    rate = round(sample_rate) if known else 0
    if not LEAST_RATE <= rate <= GREATEST_RATE:
        raise AudioError(
            f"sample_rate must be from {LEAST_RATE} to {GREATEST_RATE} Hz, not {shown(sample_rate)}"
        )
    signal_CT = _mixed(_floats(audio), config.channels)
    if rate != config.sample_rate:
        resampler = load_resampling().StreamingResampler(rate, config.sample_rate, config.channels)
        signal_CT = np.concatenate((resampler.push(signal_CT), resampler.finish()), axis=1)
    scaled_CT = np.rint(signal_CT * np.float32(PCM_SCALE))
    pcm_CT: NDArray[np.int16] = np.clip(scaled_CT, -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
    return pcm_CT


def _floats(audio: ArrayLike | Tensor) -> NDArray[np.float32]:
    """float32 [C, T] with full scale at ±1."""
    array: NDArray[Any]
    if isinstance(audio, Tensor):
        tensor = audio.detach().cpu()
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    else:
        try:
            array = np.asarray(audio)
        except ValueError:
            raise AudioError("the channels of audio must be of one length") from None
    if array.ndim == 0 or array.dtype == object:
        raise AudioError(f"audio must be an array or a tensor, not {shown(audio)}; encode_file takes files")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise AudioError(f"audio must have the shape [samples] or [channels, samples], not {array.shape}")
    channels, samples = array.shape
    if not samples or not channels:
        raise AudioError("audio holds no samples")
    if channels > MOST_CHANNELS:
        raise AudioError(
            f"audio of shape {array.shape} would have {channels} channels; give it as [channels, samples]"
        )
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - np.float32(128)) / np.float32(128)
    if np.issubdtype(array.dtype, np.signedinteger):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"audio must be of floats or integers, not of {array.dtype}")
    if not np.isfinite(array).all():
        raise AudioError("audio holds NaN or infinite samples")
    return array.astype(np.float32)


def _mixed(signal_CT: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    if channels == 1:
        mean_1T: NDArray[np.float32] = signal_CT.mean(axis=0, keepdims=True)
        return mean_1T
    if len(signal_CT) == 1:
        return np.repeat(signal_CT, channels, axis=0)
    return np.ascontiguousarray(signal_CT[:channels])
