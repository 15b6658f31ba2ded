"""A tiny codec in memory, corpora of synthetic recordings, and real recordings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from distill_ray.bundle import LoadedVQModel, load_model_v2, save_model_v2
from distill_ray.config.corpus import CorpusConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus import Corpus, open_corpus, prepare_corpus
from distill_ray.evaluate import Sound
from distill_ray.vqvae import VQVAE

RATE = 8_000
Audio = np.ndarray[Any, np.dtype[np.float32]]
CODEC = VQVAEConfig(
    sample_rate=RATE,
    width=16,
    encoder_blocks=1,
    decoder_blocks=1,
    latent_dim=16,
    num_quantizers=3,
    codebook_size=16,
    n_fft=128,
    hop=32,
)


def recording(seed: int, seconds: float, channels: int) -> np.ndarray[Any, Any]:
    """Decaying notes and noise, float32 [T, C]."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    notes = sum(np.sin(2 * np.pi * random.uniform(80, 1500) * time) for _ in range(3))
    mono = 0.2 * notes * np.exp(-3 * (time % 0.5)) + 0.01 * random.standard_normal(len(time))
    return np.stack([mono * (1.0 if c == 0 else 0.6) for c in range(channels)], axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def make_corpus_in() -> Callable[..., Corpus]:
    """Makes a corpus in a folder."""

    def make(
        folder: Path, seconds: tuple[float, ...], channels: int = 1, val_fraction: float = 0.5
    ) -> Corpus:
        source = folder / "source"
        source.mkdir()
        for index, length in enumerate(seconds):
            soundfile.write(source / f"{index}.wav", recording(index, length, channels), RATE)
        config = CorpusConfig(sample_rate=RATE, channels=channels, val_fraction=val_fraction)
        prepare_corpus([source], folder / "corpus", config=config, workers=1)
        return open_corpus(folder / "corpus")

    return make


@pytest.fixture
def make_corpus(tmp_path: Path, make_corpus_in: Callable[..., Corpus]) -> Callable[..., Corpus]:
    return lambda *arguments, **named: make_corpus_in(tmp_path, *arguments, **named)


@pytest.fixture
def make_loaded(tmp_path: Path) -> Callable[..., LoadedVQModel]:
    def make(trained_on: Corpus | None = None, **changes: Any) -> LoadedVQModel:
        torch.manual_seed(0)
        codec = VQVAE(dataclasses.replace(CODEC, **changes))
        generator = torch.Generator().manual_seed(0)
        audio_BTC = np.stack([recording(index, 1.024, codec.config.channels) for index in range(4)])
        codec.initialise(torch.from_numpy(audio_BTC).transpose(1, 2), generator)
        metadata = {"corpus": {"digest": trained_on.digest}} if trained_on is not None else {}
        path = save_model_v2(tmp_path / "m.distill", codec, metadata=metadata, codebook_health=())
        return load_model_v2(path)

    return make


class Recordings:
    """Real recordings (tests/data/sonic-pi, CC0, mono), and what a judge has to put behind them."""

    rate = 32_000
    folder = Path(__file__).parents[2] / "data" / "sonic-pi"

    def all(self) -> list[Audio]:
        """All 70, 268 s, in the order of their names; nobody writes into them."""
        return list(self.by_name.values())

    @functools.cached_property
    def by_name(self) -> dict[str, Audio]:
        """`all` by the names of their files."""
        paths = sorted(self.folder.glob("*.ogg"))
        return {path.name: soundfile.read(path, dtype="float32")[0] for path in paths}

    def split(self, held_out: int = 0) -> tuple[list[Audio], list[Audio]]:
        """Three quarters to train on, and every fourth recording from number `held_out` on."""
        every = self.all()
        apart = every[held_out::4]
        return [audio_T for index, audio_T in enumerate(every) if index % 4 != held_out], apart

    def as_sounds(self, audio: list[Audio]) -> list[Sound]:
        return [
            Sound(str(index), torch.from_numpy(audio_T.astype(np.float32))[None], self.rate)
            for index, audio_T in enumerate(audio)
        ]

    def grains(self, audio: list[Audio], seed: int = 0) -> list[Audio]:
        """As much in sounds of 10 s, of 1-s pieces from anywhere in random order."""
        random, whole_T = np.random.default_rng(seed), np.concatenate(audio)
        starts = random.integers(0, len(whole_T) - self.rate, (len(whole_T) // (10 * self.rate), 10))
        return [np.concatenate([whole_T[start : start + self.rate] for start in row]) for row in starts]

    def a_fifth_higher(self, audio: list[Audio]) -> list[Audio]:
        """Played half as fast again."""
        return [resample(torch.from_numpy(audio_T), 3, 2).numpy() for audio_T in audio]

    def noise_of_the_same_spectrum(self, audio: list[Audio], seed: int = 0) -> list[Audio]:
        """The first 64 s with random phases: their long-term spectrum and nothing else."""
        spectrum = np.fft.rfft(np.concatenate(audio)[: 64 * self.rate])  # a length that Fourier likes
        turned = np.abs(spectrum) * np.exp(2j * np.pi * np.random.default_rng(seed).random(len(spectrum)))
        return [np.fft.irfft(turned).astype(np.float32)]

    def white_noise(self, audio: list[Audio], seed: int = 0) -> list[Audio]:
        """As much, as loud."""
        whole_T = np.concatenate(audio)
        level = np.sqrt(np.square(whole_T).mean())
        return [(level * np.random.default_rng(seed).standard_normal(len(whole_T))).astype(np.float32)]

    def silence(self, audio: list[Audio]) -> list[Audio]:
        """As much."""
        return [np.zeros(sum(map(len, audio)), dtype=np.float32)]

    def one_second_again_and_again(self, audio: list[Audio]) -> list[Audio]:
        """A hundred times the first second of the longest recording."""
        return [np.tile(max(audio, key=len)[: self.rate], 100)]


@pytest.fixture(scope="session")
def recordings() -> Recordings:
    return Recordings()
