"""Fetch windows of a corpus onto a device; `sampler.py` says which.

Shape suffixes: N files, B batch, C channels, L samples of the whole store, T samples of a window.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distill_ray.corpus.corpus import Corpus
from distill_ray.corpus.sampler import Index

# A store takes at most this share of the memory that is free when it is made.
FREE_SHARE = 4
LOAD_SAMPLES = 1 << 22


class AudioStore:
    """The samples of one split, as resident int16 on `device` where they fit into `max_bytes`.

    Beyond that windows are read from the memory-mapped shards (of a remote corpus: this node's copies) and
    copied over; both ways give the same windows. Files are numbered as in `corpus.files(split)`.
    """

    def __init__(
        self, corpus: Corpus, split: str, device: torch.device | str, max_bytes: int | None = None
    ) -> None:
        corpus.fetch(split)
        self._corpus = corpus
        self._files = corpus.files(split)
        self.device = torch.device(device)
        self.lengths_N: npt.NDArray[np.int64] = np.array([file.samples for file in self._files], np.int64)
        self.bytes = int(self.lengths_N.sum()) * corpus.channels * 2
        limit = _default_limit(self.device) if max_bytes is None else max_bytes
        self._pcm_CL = self._load() if self.bytes <= limit else None
        self._offsets_N = self.lengths_N.cumsum() - self.lengths_N

    @property
    def resident(self) -> bool:
        """Whether the samples are on the device."""
        return self._pcm_CL is not None

    def gather(
        self, file_B: Index, start_B: Index, window: int, valid_B: Index | None = None
    ) -> torch.Tensor:
        """Windows as int16 [B, C, window] on the device; divide by `PCM_SCALE` for [-1, 1].

        A window goes on from the beginning where its file ends. With `valid_B`, what lies beyond that many
        samples is zero. The host does not wait for the device.
        """
        if self._pcm_CL is None:
            windows_BCT = self._read(file_B, start_B, window).to(self.device, non_blocking=True)
        else:
            places_3B = self.sent(np.stack((self._offsets_N[file_B], self.lengths_N[file_B], start_B)))
            windows_BCT = self._index(self._pcm_CL, places_3B, window)
        if valid_B is None:
            return windows_BCT
        inside_BT = torch.arange(window, device=self.device) < self.sent(valid_B)[:, None]
        return windows_BCT * inside_BT[:, None]

    def sent(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """`values` on the store's device."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # from pageable memory a copy waits for all that the GPU has to do
        return tensor.to(self.device, non_blocking=True)

    def _index(self, pcm_CL: torch.Tensor, places_3B: torch.Tensor, window: int) -> torch.Tensor:
        offset_B1, length_B1, start_B1 = places_3B[..., None]
        position_BT = start_B1 + torch.arange(window, device=self.device)
        index_BT = position_BT.remainder_(length_B1).add_(offset_B1)
        return pcm_CL[:, index_BT].transpose(0, 1).contiguous()

    def _read(self, file_B: Index, start_B: Index, window: int) -> torch.Tensor:
        pinned = self.device.type == "cuda"
        windows_BCT = torch.empty(
            (len(file_B), self._corpus.channels, window), dtype=torch.int16, pin_memory=pinned
        )
        for out_CT, number, start in zip(windows_BCT.numpy(), file_B, start_B, strict=True):
            file, done = self._files[number], 0
            while done < window:
                begin = (int(start) + done) % file.samples
                count = min(window - done, file.samples - begin)
                self._corpus.read_into(out_CT[:, done : done + count], file, begin)
                done += count
        return windows_BCT

    def _load(self) -> torch.Tensor:
        total = int(self.lengths_N.sum())
        pcm_CL = torch.empty((self._corpus.channels, total), dtype=torch.int16, device=self.device)
        end = 0
        for file in self._files:
            for start in range(0, file.samples, LOAD_SAMPLES):
                part_CT = np.empty((self._corpus.channels, min(LOAD_SAMPLES, file.samples - start)), np.int16)
                self._corpus.read_into(part_CT, file, start)
                pcm_CL[:, end : end + part_CT.shape[1]] = torch.from_numpy(part_CT)
                end += part_CT.shape[1]
        return pcm_CL


def _default_limit(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // FREE_SHARE
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // FREE_SHARE
