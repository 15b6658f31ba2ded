"""Windows of code sequences for training and scoring the prior, each told whether it starts its recording.

Sequences come from `codes.py`; what a window carries goes into `CodePrior.forward` as it is. A window that
begins inside a recording has `starts` False, so that only real beginnings are learnt as beginnings. A
sequence shorter than the window is used whole, padded behind its `length`.

Where a prior learns conditions, sequences have their rows (`controls.py`) below the codes: [Q + A, F].

Legend: B windows, M those to fill in, Q RVQ levels, A attributes, T code frames of a window, N frames of all
sequences end to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from distill_ray.prior.masking import training_mask

LEFT_OUT, ALL_LEFT_OUT = 0.3, 0.3
"""Shares of windows that a condition, and that all of them, are left out of."""


@dataclass(frozen=True, kw_only=True)
class CodeWindows:
    """A batch: what `CodePrior.forward` takes by these names."""

    codes_BQT: Tensor
    lengths_B: Tensor
    starts_B: Tensor
    heard_BQT: Tensor | None = None
    conditions_BAT: Tensor | None = None
    masked_MQT: Tensor | None = None


class CodeWindowSampler:
    """Random windows, a pure function of (seed, step).

    A frame is drawn uniformly from all sequences and the window is centred on it as far as its recording
    reaches. So long recordings come as much more often as they are longer, and beginnings and ends, which
    few windows could hold otherwise, come about half as often as a middle.

    The last `attributes` rows of the sequences are conditions. A prior must do without each of them, and
    without all: each is left out of some windows, and all of some.

    With a `replaced_share` the windows are looked back on with so many of their codes replaced by those of
    random moments, from none to twice the share in a window: generated sound is a past with mistakes, and a
    prior that has seen none drifts away with them (as word dropout, Bowman et al. 2016).

    `masked_share` of the windows of a batch, and one of each rank at least, are to be filled in; they come
    last.

    The codes stay on `device` as int16: four hours at 86 frames a second and 8 levels are 20 MB.
    """

    def __init__(
        self,
        sequences: Sequence[Tensor],
        window_frames: int,
        seed: int,
        *,
        attributes: int = 0,
        masked_share: float = 0.0,
        replaced_share: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        assert sequences, "a sampler needs a sequence"
        self._seed = seed
        self._replaced_share = replaced_share
        self._attributes = attributes
        self._masked_share = masked_share
        self._codes = _EndToEnd(sequences, window_frames, torch.device(device))

    @property
    def frames(self) -> int:
        """Frames of all sequences."""
        return int(self._codes.ends_F[-1])

    def batch(self, step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> CodeWindows:
        """Rank `rank`'s equal share of the batch of `step`; all ranks together make the one of one rank."""
        assert batch_size % world_size == 0, "ranks have equal shares"
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 0, step]))
        mine, masked = self._rows(batch_size, rank, world_size)
        frame_B = generator.integers(self.frames, size=batch_size)[mine]
        file_B = np.searchsorted(self._codes.ends_F, frame_B, side="right")
        centre_B = frame_B - self._codes.begins_F[file_B]
        last_B = np.maximum(self._codes.lengths_F[file_B] - self._codes.window, 0)
        windows = self._codes.gather(file_B, np.clip(centre_B - self._codes.window // 2, 0, last_B))
        if self._attributes:
            left_out_BA = generator.random((batch_size, self._attributes)) < LEFT_OUT
            left_out_BA |= generator.random((batch_size, 1)) < ALL_LEFT_OUT
            windows = self._conditioned(windows, left_out_BA[mine])
        if self._replaced_share:
            windows = replace(windows, heard_BQT=self._heard(windows.codes_BQT, step, batch_size, mine))
        if masked:
            lengths_M = self._codes.lengths_F[file_B[-masked:]]
            windows = replace(windows, masked_MQT=self._masks(step, mine[-masked:], lengths_M))
        return windows

    def _rows(self, batch_size: int, rank: int, world_size: int) -> tuple[np.ndarray, int]:
        """The numbers of a rank's windows in the batch, and how many of them, the last, are masked."""
        share = batch_size // world_size
        mine_B = np.arange(rank * share, (rank + 1) * share)
        if not self._masked_share:
            return mine_B, 0
        most = max(world_size, round(self._masked_share * batch_size))
        # Spread evenly, so that the number of ranks does not say which ones they are.
        is_masked_B = np.diff(np.arange(batch_size + 1) * most // batch_size)[mine_B] > 0
        assert not is_masked_B.all(), "some windows are continued in every step"
        return mine_B[np.argsort(is_masked_B, kind="stable")], int(is_masked_B.sum())

    def _heard(self, codes_BQT: Tensor, step: int, batch_size: int, rows: np.ndarray) -> Tensor:
        """heard_BQT of the windows with these numbers in the batch."""
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 1, step]))
        _, levels, frames = codes_BQT.shape
        frame_BT = generator.integers(self.frames, size=(batch_size, frames))[rows]
        share_B11 = 2.0 * self._replaced_share * generator.random((batch_size, 1, 1))
        is_replaced_BQT = generator.random((batch_size, levels, frames), dtype=np.float32) < share_B11
        others_BQT = self._codes.at(self._codes.sent(frame_BT))[:, :levels]
        return torch.where(self._codes.sent(is_replaced_BQT[rows]), others_BQT, codes_BQT)

    def _masks(self, step: int, rows: np.ndarray, lengths: np.ndarray) -> Tensor:
        """masked_MQT of the windows with these numbers in the batch, of recordings of these lengths."""
        levels, frames = self._codes.levels - self._attributes, self._codes.window
        return self._codes.sent(
            np.stack(
                [
                    training_mask(
                        np.random.Generator(np.random.Philox(key=self._seed, counter=[0, row + 1, 0, step])),
                        levels,
                        frames,
                        min(length, frames),
                    )
                    for row, length in zip(rows.tolist(), lengths.tolist(), strict=True)
                ]
            )
        )

    def _conditioned(self, windows: CodeWindows, left_out_BA: np.ndarray) -> CodeWindows:
        levels = windows.codes_BQT.shape[1] - self._attributes
        return replace(
            windows,
            codes_BQT=windows.codes_BQT[:, :levels],
            conditions_BAT=windows.codes_BQT[:, levels:] * self._codes.sent(~left_out_BA)[:, :, None],
        )


def validation_windows(
    sequences: Sequence[Tensor],
    window_frames: int,
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[CodeWindows]:
    """Back-to-back windows that hold every frame once; rank r scores every world_size-th of them.

    Add up `nats_Q` and `codes_Q` over batches and ranks for the exact mean. A rank may get no batch.
    """
    codes = _EndToEnd(sequences, window_frames, torch.device(device))
    places = [
        (file, start)
        for file, length in enumerate(codes.lengths_F.tolist())
        for start in range(0, length, window_frames)
    ][rank::world_size]
    for first in range(0, len(places), batch_size):
        file_B, start_B = np.array(places[first : first + batch_size], dtype=np.int64).T
        yield codes.gather(file_B, start_B)


class _EndToEnd:
    """All sequences joined on one device, and windows cut out of them."""

    def __init__(self, sequences: Sequence[Tensor], window: int, device: torch.device) -> None:
        self.window = window
        self.lengths_F = np.array([sequence.shape[1] for sequence in sequences], dtype=np.int64)
        assert (self.lengths_F > 0).all(), "an empty sequence has no window"
        self.ends_F = self.lengths_F.cumsum()
        self.begins_F = self.ends_F - self.lengths_F
        self.levels = sequences[0].shape[0]
        self._codes_QN = torch.cat([sequence.to(torch.int16) for sequence in sequences], dim=1).to(device)

    def gather(self, file_B: np.ndarray, start_B: np.ndarray) -> CodeWindows:
        device = self._codes_QN.device
        length_B = np.minimum(self.lengths_F[file_B] - start_B, self.window)
        place_3B = np.stack((self.begins_F[file_B] + start_B, length_B, start_B == 0))
        begin_B, lengths_B, starts_B = self.sent(place_3B)
        # Past its end a short window repeats its last frame: any code will do there.
        offset_BT = torch.minimum(torch.arange(self.window, device=device), lengths_B[:, None] - 1)
        codes_BQT = self.at(begin_B[:, None] + offset_BT)
        return CodeWindows(codes_BQT=codes_BQT, lengths_B=lengths_B, starts_B=starts_B.bool())

    def at(self, place_BT: Tensor) -> Tensor:
        """codes_BQT of the frames with these numbers."""
        return self._codes_QN[:, place_BT].transpose(0, 1)

    def sent(self, values: np.ndarray) -> Tensor:
        """`values` on the device; the host does not wait."""
        tensor = torch.from_numpy(values)
        device = self._codes_QN.device
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)
