"""What a codec step trains on: windows of the corpus, changed at random, and the depth of each.

Everything is drawn for the whole batch from (seed, step) on the CPU, and each rank takes its slice: two
ranks see just what one process would, and a resumed run just what an uninterrupted one would.

Shapes: B windows of this rank, C channels, T samples, Q RVQ levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill_ray.config.vqvae import AugmentConfig, VQTrainConfig
from distill_ray.corpus import PCM_SCALE, AudioStore, WindowBatch, WindowSampler
from distill_ray.training.augment import MARGIN, POINTS, changed, equaliser, source_samples

# Added to the seed, so that the streams differ from that of the windows.
_AUGMENT_SEED, _MIX_SEED = 1 << 40, 2 << 40
_VIEWED = 4
"""One of so many windows has a view."""
_VIEW_DB = 3.0
_FADE_SECONDS = (0.01, 0.2)
"""Shortest and longest edge of silence."""
_SPEEDS = 3
"""Speeds in a batch: windows are transformed together with those of the same speed. Discriminators look at
every fourth window, which are of all speeds.
"""


@dataclass(frozen=True, kw_only=True)
class VQBatch:
    """Audio in [-1, 1] and the number of RVQ levels that each window uses; `audio_BCT` may hold more windows
    than `depth_B`: views of some of the others (`VQBatches.batch`).
    """

    audio_BCT: Tensor
    depth_B: Tensor


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Windows of this rank with a gain each, and those mixed into them (with a gain of 0 into none)."""

    windows: WindowBatch
    gain_B: np.ndarray
    mixed: WindowBatch
    mix_B: np.ndarray

    def __getitem__(self, rows: slice) -> _Drawn:
        return _Drawn(
            windows=self.windows[rows],
            gain_B=self.gain_B[rows],
            mixed=self.mixed[rows],
            mix_B=self.mix_B[rows],
        )


class VQBatches:
    """The batches of one rank, by step."""

    def __init__(self, store: AudioStore, config: VQTrainConfig, *, rank: int, world_size: int) -> None:
        assert config.training.batch_size % world_size == 0
        self._store = store
        self._config = config
        share = config.training.batch_size // world_size
        self._slice = slice(rank * share, (rank + 1) * share)
        seed = config.training.seed
        self._sampler = WindowSampler(store.lengths_N, config.window_samples, seed)
        self._mixed = WindowSampler(store.lengths_N, config.window_samples, seed + _MIX_SEED)

    def batch(self, step: int) -> VQBatch:
        """This rank's share of the batch of step `step`.

        With a weight of consistency a quarter of the windows, the first of four each, comes twice: at the end
        of the batch they are heard up to half a code frame later and up to 3 dB louder or softer.
        """
        config = self._config
        model, augment = config.model, config.augment
        count = config.training.batch_size
        rng = np.random.Generator(np.random.Philox(key=[config.training.seed + _AUGMENT_SEED, step]))
        gain_B, mix_B = _draw_gains(rng, augment, count)
        depth_B = _draw_depths(rng, model.quantizer_dropout, model.num_quantizers, count)
        drawn = _Drawn(
            windows=self._sampler.batch(step, count),
            gain_B=gain_B,
            mixed=self._mixed.batch(step, count),
            mix_B=mix_B,
        )
        audio_BCT = self._varied(drawn[self._slice], rng)
        # A sum or a raised gain may pass full scale, where no recording is.
        peak_B11 = audio_BCT.abs().amax(dim=(1, 2), keepdim=True)
        audio_BCT = audio_BCT / peak_B11.clamp(min=1.0)
        if augment.silence > 0.0:
            heard_B3 = _draw_heard(rng, augment.silence, config.window_samples, model.sample_rate, count)
            audio_BCT = audio_BCT * self._heard(heard_B3)
        if config.loss.consistency > 0.0:
            audio_BCT = torch.cat([audio_BCT, self._views(audio_BCT, rng)])
        return VQBatch(audio_BCT=audio_BCT, depth_B=self._own(depth_B))

    def _views(self, audio_BCT: Tensor, rng: np.random.Generator) -> Tensor:
        """Every `_VIEWED`-th window later and at another level, silent at its end."""
        count = self._config.training.batch_size
        shift_B = rng.integers(0, self._config.model.frame_hop // 2 + 1, size=count)
        gain_B = (10.0 ** (rng.uniform(-_VIEW_DB, _VIEW_DB, size=count) / 20.0)).astype(np.float32)
        every = _VIEWED if len(audio_BCT) % _VIEWED == 0 else 1
        samples = audio_BCT.shape[-1]
        shift_V, gain_V = self._own(shift_B)[::every], self._own(gain_B)[::every]
        place_VT = torch.arange(samples, device=audio_BCT.device) + shift_V[:, None]
        heard_VT = gain_V[:, None] * (place_VT < samples)
        place_VCT = place_VT.clamp(max=samples - 1)[:, None].expand(-1, audio_BCT.shape[1], -1)
        return audio_BCT[::every].gather(2, place_VCT) * heard_VT[:, None]

    def unchanged(self, step: int) -> Tensor:
        """The whole batch of `step`, of all ranks, as it was recorded: [batch size, C, T]."""
        return self._gather(self._sampler.batch(step, self._config.training.batch_size))

    def _varied(self, drawn: _Drawn, rng: np.random.Generator) -> Tensor:
        """This rank's windows with their changes of speed and timbre."""
        augment, count = self._config.augment, self._config.training.batch_size
        if augment.speed == 0.0 and augment.equaliser_db == 0.0:
            return self._sum(drawn)
        speeds = 2.0 ** (rng.uniform(-augment.speed, augment.speed, size=_SPEEDS) / 12.0)
        points_BP = rng.uniform(-augment.equaliser_db, augment.equaliser_db, size=(count, POINTS))
        samples, gains_BK = self._config.window_samples, None
        if augment.equaliser_db > 0.0:
            gains_BK = equaliser(self._own(points_BP.astype(np.float32)), samples)
        own = len(drawn.gain_B)
        audio_BCT = torch.empty(own, self._config.model.channels, samples, device=self._store.device)
        for group, speed in enumerate(speeds):
            rows = slice((group - self._slice.start) % _SPEEDS, None, _SPEEDS)  # by place in the whole batch
            if rows.start >= own:
                continue
            source_BCS = self._sum(drawn[rows], source_samples(samples, speed))
            audio_BCT[rows] = changed(source_BCS, samples, None if gains_BK is None else gains_BK[rows])
        return audio_BCT

    def _sum(self, drawn: _Drawn, samples: int | None = None) -> Tensor:
        """Windows and what is mixed into them as they were recorded, of `samples` with both margins."""
        (rows,) = np.nonzero(drawn.mix_B)  # only what is heard is read
        own, mixed = drawn.windows, drawn.mixed[rows]
        windows = WindowBatch(
            file_B=np.concatenate((own.file_B, mixed.file_B)),
            start_B=np.concatenate((own.start_B, mixed.start_B)),
        )
        gains = self._store.sent(np.concatenate((drawn.gain_B, drawn.mix_B[rows])))
        all_BCT = self._gather(windows, samples) * gains[:, None, None]
        audio_BCT = all_BCT[: len(drawn.gain_B)]
        if len(rows):
            audio_BCT.index_add_(0, self._store.sent(rows), all_BCT[len(drawn.gain_B) :])
        return audio_BCT

    def _within(self, windows: WindowBatch, length: int) -> WindowBatch:
        """Windows that begin a margin earlier, and end with their file where they fit into it."""
        spare_B = np.maximum(self._store.lengths_N[windows.file_B] - length, 0)
        return WindowBatch(file_B=windows.file_B, start_B=np.clip(windows.start_B - MARGIN, 0, spare_B))

    def _gather(self, windows: WindowBatch, samples: int | None = None) -> Tensor:
        """Windows as they were recorded; with `samples`, those of so many with both margins."""
        if samples is None:
            samples = self._config.window_samples
        else:
            windows = self._within(windows, samples)
        return self._store.gather(windows.file_B, windows.start_B, samples).float() / PCM_SCALE

    def _heard(self, heard_B3: np.ndarray) -> Tensor:
        """Gains of this rank's windows [B, 1, T]: 1 between two samples, 0 outside, with soft edges.

        Windows lie inside of recordings (a shorter one is looped), so that without this the codec would meet
        silence only in use, and answer it with bursts. Few recordings have hard edges, and no spectral frame
        can make one.
        """
        begin_B11, end_B11, fade_B11 = torch.split(self._own(heard_B3)[:, None, :], 1, dim=2)
        place_T = torch.arange(self._config.window_samples, device=self._store.device)
        inside_B1T = torch.minimum(place_T - begin_B11, end_B11 - place_T) / fade_B11
        return torch.sin(0.5 * torch.pi * inside_B1T.clamp(0.0, 1.0)).square()

    def _own(self, values_B: np.ndarray) -> Tensor:
        return self._store.sent(values_B[self._slice])


def _draw_gains(
    rng: np.random.Generator, augment: AugmentConfig, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Signed linear gains of each window and of the one mixed into it (0 where none is)."""
    decibels = rng.uniform(-augment.gain_db, augment.gain_db, size=(2, count))
    signs = np.where(rng.random((2, count)) < augment.polarity, -1.0, 1.0)
    gains = (signs * 10.0 ** (decibels / 20.0)).astype(np.float32)
    gains[1] *= rng.random(count) < augment.mix
    return gains[0], gains[1]


def _draw_heard(
    rng: np.random.Generator, chance: float, samples: int, sample_rate: int, count: int
) -> np.ndarray:
    """Where each window begins and ends to be heard, and the length of the fade there, in samples: [B, 3]."""
    point_B = rng.integers(0, samples, size=count)
    shortest, longest = np.log(_FADE_SECONDS)
    fade_B = sample_rate * np.exp(rng.uniform(shortest, longest, size=count))
    cut_B, from_start_B = rng.random(count) < chance, rng.random(count) < 0.5
    begin_B = np.where(cut_B & from_start_B, point_B, -fade_B)
    end_B = np.where(cut_B & ~from_start_B, point_B, samples + fade_B)
    return np.stack([begin_B, end_B, np.where(cut_B, fade_B, 1.0)], axis=1).astype(np.float32)


def _draw_depths(rng: np.random.Generator, share: float, levels: int, count: int) -> np.ndarray:
    """Quantiser dropout (Zeghidour et al. 2021): `share` of the windows use 1..levels, the rest all."""
    depths = rng.integers(1, levels + 1, size=count)
    return np.where(rng.random(count) < share, depths, levels)
