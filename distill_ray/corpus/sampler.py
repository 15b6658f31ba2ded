"""Which windows to train and to validate on; `windows.py` fetches their samples.

Pure numpy. Shape suffixes: N files, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """Windows by the number of their file in the store and their first sample; slice it for a rank."""

    file_B: Index
    start_B: Index

    def __getitem__(self, part: slice | Index) -> WindowBatch:
        return WindowBatch(file_B=self.file_B[part], start_B=self.start_B[part])


class WindowSampler:
    """Random windows, a file's chance in proportion to its length; stateless.

    `batch(step, size)` depends on seed, step and size alone, so a resumed run goes on exactly, and ranks
    that each take their slice of the same global batch train on the same windows however many they are.
    A file shorter than a window counts as one window and starts anywhere, for the store loops it.
    """

    def __init__(self, lengths: npt.ArrayLike, window: int, seed: int) -> None:
        self._lengths_N = np.asarray(lengths, dtype=np.int64)
        assert self._lengths_N.size, "nothing to sample from"
        assert self._lengths_N.min() > 0
        assert window > 0
        self._window = window
        self._weights_N = np.maximum(self._lengths_N, window)
        self._ends_N = np.cumsum(self._weights_N)
        self._seed = seed

    @property
    def total_samples(self) -> int:
        """Samples that the chances add up to: an epoch is this over the window length."""
        return int(self._ends_N[-1])

    def batch(self, step: int, size: int) -> WindowBatch:
        """The `size` windows of step `step`."""
        generator = np.random.Generator(np.random.Philox(key=[self._seed, step]))
        position_B = generator.integers(0, self._ends_N[-1], size=size)
        file_B = np.searchsorted(self._ends_N, position_B, side="right")
        weight_B, length_B = self._weights_N[file_B], self._lengths_N[file_B]
        offset_B = position_B - (self._ends_N[file_B] - weight_B)
        starts_B = np.where(length_B < self._window, length_B, length_B - self._window + 1)
        # In float64, for the product of two samples of a day's recording overflows int64.
        start_B = (offset_B * (starts_B / weight_B)).astype(np.int64)
        return WindowBatch(file_B=file_B, start_B=start_B)


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window in order: samples from `valid` on are past the end of the file, and zero."""

    file: int
    start: int
    valid: int


def iter_windows(lengths: npt.ArrayLike, window: int, limit: int | None = None) -> Iterator[Window]:
    """Non-overlapping windows that cover every file; with `limit`, that many evenly spread over them all."""
    lengths_N = np.asarray(lengths, dtype=np.int64)
    ends_N = np.cumsum(-(-lengths_N // window))
    total = int(ends_N[-1]) if ends_N.size else 0
    count = total if limit is None else min(limit, total)
    for index in range(count):
        position = index * total // count
        file = int(np.searchsorted(ends_N, position, side="right"))
        first = int(ends_N[file - 1]) if file else 0
        start = (position - first) * window
        yield Window(file=file, start=start, valid=min(window, int(lengths_N[file]) - start))
