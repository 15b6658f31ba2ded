"""What a bake-off scores: excerpts of held-out files, and the scores of one codec on them.

Legend: C channels, T samples, Q RVQ levels, K codes, F code frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rivals import Coder
from torch import Tensor

from distill_ray.config.corpus import CorpusConfig
from distill_ray.corpus import PCM_SCALE, Corpus, open_corpus, prepare_corpus
from distill_ray.evaluate.measures import SiSdr, SpectralMeasure, mel_distance, stft_distance
from distill_ray.vqvae import codebook_health

SAMPLE_RATE = 44_100
VAL_FRACTION = 0.2
ORIGINAL = "original"
LISTEN_SECONDS = 8.0
"""ViSQOL is meant for 5 to 10 seconds."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A part of a held-out file."""

    name: str
    audio_CT: Tensor
    """float32 in [-1, 1] on the CPU: int16 values over `PCM_SCALE`."""


def bench_corpus(audio: str, folder: Path, *, val_fraction: float = VAL_FRACTION) -> Corpus:
    """The recordings at `audio` as a 44.1 kHz mono corpus in `folder`; the same split on every machine."""
    config = CorpusConfig(sample_rate=SAMPLE_RATE, channels=1, val_fraction=val_fraction)
    prepare_corpus([audio], folder, config=config)
    return open_corpus(folder)


def limited_corpus(corpus: Corpus, seconds: float, folder: Path) -> Corpus:
    """A corpus in `folder` of `seconds` from the middle of the training files, evenly over them, all of it
    for training.
    """
    files = corpus.files("train")
    share = seconds / len(files)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for index, file in enumerate(files):
        length = min(file.samples, round(share * corpus.sample_rate))
        pcm_CT = np.empty((corpus.channels, length), dtype=np.int16)
        corpus.read_into(pcm_CT, file, (file.samples - length) // 2)
        soundfile.write(folder / "audio" / f"{index:04d}.flac", pcm_CT.T, corpus.sample_rate)
    return bench_corpus(str(folder / "audio"), folder / "corpus", val_fraction=0.0)


def excerpts(corpus: Corpus, *, count: int, seconds: float) -> list[Excerpt]:
    """About `count` excerpts of at most `seconds`, evenly over the held-out files.

    Where there are fewer files than excerpts, long files give several, evenly over their length. The first
    excerpts, which are kept to be heard, are of different files, the longest first.
    """
    held_out = corpus.files("val")
    assert held_out, "this corpus holds nothing out"
    chosen = [held_out[index * len(held_out) // count] for index in range(count)]
    found: list[tuple[int, Excerpt]] = []
    for file in dict.fromkeys(chosen):
        length = min(file.samples, round(seconds * corpus.sample_rate))
        number = min(chosen.count(file), file.samples // length)
        for index in range(number):
            start = (file.samples - length) * (2 * index + 1) // (2 * number)
            pcm_CT = np.empty((corpus.channels, length), dtype=np.int16)
            corpus.read_into(pcm_CT, file, start)
            name = f"{file.path} from {start / corpus.sample_rate:.1f} s"
            audio_CT = torch.from_numpy(pcm_CT).float() / PCM_SCALE
            found.append((index, Excerpt(name=name, audio_CT=audio_CT)))
    return [excerpt for _, excerpt in sorted(found, key=lambda pair: (pair[0], -pair[1].audio_CT.shape[1]))]


def save_heard(folder: Path, codec: str, index: int, audio_CT: Tensor) -> None:
    """The middle of an excerpt as FLAC, for ViSQOL, pictures and ears."""
    length = min(audio_CT.shape[1], round(LISTEN_SECONDS * SAMPLE_RATE))
    start = (audio_CT.shape[1] - length) // 2
    place = folder / "heard" / codec
    place.mkdir(parents=True, exist_ok=True)
    soundfile.write(place / f"{index:02d}.flac", audio_CT[:, start : start + length].T.numpy(), SAMPLE_RATE)


def save_originals(folder: Path, kept: list[Excerpt]) -> None:
    """What the reconstructions that `save_heard` writes are compared with."""
    for index, excerpt in enumerate(kept):
        save_heard(folder, ORIGINAL, index, excerpt.audio_CT)


class Distances:
    """Mel distance, STFT distance and SI-SDR of reconstructions, each the mean over excerpts."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._measure = SpectralMeasure(SAMPLE_RATE, self._device)

    def of(self, original_CT: Tensor, estimate_CT: Tensor) -> tuple[float, float, float]:
        original_CT, estimate_CT = original_CT.to(self._device), estimate_CT.to(self._device)
        one, other = self._measure.analyse(estimate_CT), self._measure.analyse(original_CT)
        ratio = SiSdr()
        ratio.add(estimate_CT, original_CT)
        return mel_distance(one, other), stft_distance(one, other), ratio.decibels


def mean_scores(scores: list[tuple[float, float, float]]) -> dict[str, float]:
    mel, stft, ratio = (math.fsum(column) / len(column) for column in zip(*scores, strict=True))
    return {"mel": mel, "stft": stft, "si_sdr_db": ratio}


@torch.no_grad()
def score_codec(
    coder: Coder,
    chosen: list[Excerpt],
    *,
    device: torch.device,
    levels: int,
    size: int,
    hop: int,
    heard: tuple[Path, str, int] | None,
) -> dict[str, Any]:
    """Scores at every depth, use of the codebooks and bit rates.

    `heard` is (folder, codec name, count): so many reconstructions at full depth are written there.
    """
    distances = Distances(device)
    counts_QK = torch.zeros(levels, size, dtype=torch.int64)
    scores: list[list[tuple[float, float, float]]] = [[] for _ in range(levels)]
    for index, excerpt in enumerate(chosen):
        audio_CT = excerpt.audio_CT.to(device)
        codes_1QF = coder.encode(audio_CT[None])
        codes_QF = codes_1QF[0].cpu()
        counts_QK.scatter_add_(1, codes_QF, torch.ones_like(codes_QF))
        for depth in range(levels):
            decoded_CT = coder.decode(codes_1QF[:, : depth + 1], audio_CT.shape[1])[0].float()
            scores[depth].append(distances.of(audio_CT, decoded_CT))
        if heard and index < heard[2]:
            save_heard(heard[0], heard[1], index, decoded_CT.cpu())
    health = codebook_health(counts_QK)
    bits, rate = math.log2(size), SAMPLE_RATE / hop / 1000
    entropies = [level.entropy for level in health]
    depths = [
        {
            "levels": depth,
            "kbps": depth * bits * rate,
            "kbps_entropy": math.fsum(entropies[:depth]) * bits * rate,
            "efficiency": math.fsum(entropies[:depth]) / depth,
            **mean_scores(scores[depth - 1]),
        }
        for depth in range(1, levels + 1)
    ]
    return {
        "depths": depths,
        "utilization": [level.utilization for level in health],
        "vectors_counted": int(counts_QK[0].sum()),
        "per_file": [
            {"file": excerpt.name, "mel": row[0], "stft": row[1], "si_sdr_db": row[2]}
            for excerpt, row in zip(chosen, scores[-1], strict=True)
        ],
    }
