"""The spectrogram of a sound as a picture shows it: decibels on a logarithmic frequency axis.

Legend: T samples, C channels, F frequency rows from low to high, S columns of time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LOWEST_HZ = 40.0
RANGE_DB = 80.0
_ROWS, _MOST_COLUMNS = 112, 300
_WINDOW_SECONDS = 0.046


def frequencies(sample_rate: int) -> npt.NDArray[np.float64]:
    """The rows' centres in Hz, logarithmically from `LOWEST_HZ` to half the sample rate."""
    return np.geomspace(min(LOWEST_HZ, sample_rate / 8), sample_rate / 2, _ROWS)


def spectrogram(audio_TC: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float32]:
    """Levels in dB [F, S] of the mean of the channels; 0 dB is a sine of full scale.

    A row that is wider than a bin of the transform shows the loudest bin in it, as a peak must not vanish
    between rows; narrower rows are interpolated.
    """
    audio_T = audio_TC.mean(axis=1, dtype=np.float64)
    size = 1 << max(5, round(np.log2(_WINDOW_SECONDS * sample_rate)))
    hop = max(size // 4, -(-len(audio_T) // _MOST_COLUMNS))
    padded = np.pad(audio_T, (size // 2, size))
    window = np.hanning(size + 1)[:-1]
    starts = np.arange(0, max(1, len(audio_T)), hop)
    magnitudes_SB = np.stack(
        [np.abs(np.fft.rfft(padded[start : start + size] * window)) for start in starts]
    ) * (2 / window.sum())
    return _rows(20 * np.log10(np.maximum(magnitudes_SB, 1e-7)).T, sample_rate)


def _rows(levels_BS: npt.NDArray[np.float64], sample_rate: int) -> npt.NDArray[np.float32]:
    centres = frequencies(sample_rate) / (sample_rate / 2) * (len(levels_BS) - 1)
    step = np.sqrt(centres[1] / centres[0])
    rows = []
    for centre in centres:
        low, high = int(np.ceil(centre / step)), int(np.floor(min(centre * step, len(levels_BS) - 1)))
        if high > low:
            rows.append(levels_BS[low : high + 1].max(axis=0))
        else:
            below = min(int(centre), len(levels_BS) - 2)
            rows.append(levels_BS[below] + (centre - below) * (levels_BS[below + 1] - levels_BS[below]))
    return np.stack(rows).astype(np.float32)
