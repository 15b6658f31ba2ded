"""Resampling of a signal that comes in blocks, with the result of resampling it whole.

Kept apart from `decode.py` so that a corpus whose sources already have its rate needs no torch.
Shape suffixes: C channels, T samples.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.transforms import Resample

# The filter of librosa's "kaiser_best", as torchaudio's documentation gives it: about twice the work of
# torchaudio's default and no audible aliasing.
KERNEL = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}

# torchaudio's kernel has `target * source` values after both are divided by their common divisor: 8 GB for
# 44,101 to 44,100 Hz. A ratio of numbers up to this keeps it small; it is exact for usual rates, and less
# than a cent off for others.
MAX_TERM = 1000


def resample_ratio(source_rate: int, target_rate: int) -> Fraction:
    """Target over source rate, rounded to terms that make an affordable kernel."""
    ratio = Fraction(target_rate, source_rate)
    if ratio < 1:
        return ratio.limit_denominator(MAX_TERM)
    return 1 / (1 / ratio).limit_denominator(MAX_TERM)


class StreamingResampler:
    """Band-limited sinc interpolation [Smith, "Digital Audio Resampling"] of blocks of one signal.

    `push` takes the next samples and returns all output that no later sample can change; `finish` returns
    the rest. Together they are `torchaudio.transforms.Resample` of the whole signal, which convolves with
    stride `source` and reaches `width` samples back and `width + source` ahead.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int) -> None:
        ratio = resample_ratio(source_rate, target_rate)
        self._source, self._target = ratio.denominator, ratio.numerator
        self._resample = _filter(self._source, self._target)
        width = int(getattr(self._resample, "width", 0))
        self._before = -(-width // self._source) * self._source
        self._ahead = width + self._source
        self._pending_CT = np.zeros((channels, 0), dtype=np.float32)
        self._skip = 0

    def push(self, block_CT: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Output [C, T'] made certain by `block_CT`."""
        self._pending_CT = np.concatenate((self._pending_CT, block_CT), axis=1)
        ready = (self._pending_CT.shape[1] - self._ahead) // self._source
        if ready <= self._skip:
            return self._pending_CT[:, :0]
        out_CT = self._run()[:, self._skip * self._target : ready * self._target]
        keep_from = max(0, ready * self._source - self._before)
        self._skip = ready - keep_from // self._source
        self._pending_CT = self._pending_CT[:, keep_from:].copy()
        return out_CT

    def finish(self) -> npt.NDArray[np.float32]:
        """Output [C, T'] that was waiting for samples which never came."""
        if not self._pending_CT.shape[1]:
            return self._pending_CT
        return self._run()[:, self._skip * self._target :]

    def _run(self) -> npt.NDArray[np.float32]:
        if self._source == self._target:
            return self._pending_CT
        with torch.inference_mode():
            result: npt.NDArray[np.float32] = self._resample(torch.from_numpy(self._pending_CT)).numpy()
        return result


@functools.lru_cache(maxsize=8)
def _filter(source: int, target: int) -> Resample:
    return Resample(source, target, **KERNEL)


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread for an operation: the callers are many threads already."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
