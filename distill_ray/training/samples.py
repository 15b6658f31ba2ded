"""Sounds of a training for people to hear: held-out excerpts and their decodings, what a prior generates.

Rank 0 makes them at a few validations and sends them on as `AudioSample` events; who hears these keeps them
in the run's folder. They take at most `MOST_SHARE` of the run's time and draw from generators of their own,
so that the training is the same with and without them.

Shapes: B batch, C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from torch import Tensor

from distill_ray.corpus import PCM_SCALE, Corpus, CorpusFile
from distill_ray.events.records import AudioSample
from distill_ray.prior import CodePrior, SamplingConfig, stream_codes
from distill_ray.training.loop import Pace, Progress
from distill_ray.vqvae import VQVAE

MOST_SHARE = 0.015
"""Of the run's time; what keeps the sounds adds at most 0.5 % (`runs/samples.py`)."""
FRACTIONS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
"""Of the budget: the first validation from each of them on makes sounds."""
SECONDS = 4.0
_FEWEST_EXCERPTS, _MOST_EXCERPTS, _TOTAL_SECONDS = 3, 6, 12.0
_PLACES = 5
# A step also has losses, goes backwards and updates: on a CPU it takes 6 times as long as decoding.
_STEP_TO_DECODING = 4
_GENERATED, _SHORTEST_SECONDS = 2, 1.0
# Frames after which the clock is looked at; a GPU would wait each time.
_BLOCK_FRAMES, _BLOCK_FRAMES_ELSEWHERE = {"cpu": 1}, 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Excerpt:
    """A part of a recording, floats [C, T] in [-1, 1]."""

    index: int
    source: str
    start_s: float
    audio_CT: Tensor


def read_excerpts(corpus: Corpus) -> tuple[Excerpt, ...]:
    """Excerpts of held-out recordings, spread over them; the same for the same corpus.

    Three of `SECONDS`, more where recordings are shorter. From each recording the loudest of a few places.
    """
    files = corpus.files(corpus.validation_split)
    order = sorted(range(len(files)), key=lambda index: _spread(index, len(files)))
    found: list[Excerpt] = []
    for number in order[:_MOST_EXCERPTS]:
        seconds = sum(each.audio_CT.shape[1] for each in found) / corpus.sample_rate
        if len(found) >= _FEWEST_EXCERPTS and seconds >= _TOTAL_SECONDS - SECONDS / 2:
            break
        found.append(_loudest(corpus, files[number], len(found)))
    return tuple(found)


def _spread(index: int, count: int) -> float:
    """A rank by which the first few of `count` lie far from each other (van der Corput's order)."""
    bits = max(1, (count - 1).bit_length())
    return int(f"{index:0{bits}b}"[::-1], 2)


def _loudest(corpus: Corpus, file: CorpusFile, index: int) -> Excerpt:
    length = min(file.samples, round(SECONDS * corpus.sample_rate))
    best: tuple[float, int, np.ndarray] | None = None
    for start in np.linspace(0, file.samples - length, _PLACES).round().astype(int):
        pcm_CT = np.empty((corpus.channels, length), np.int16)
        corpus.read_into(pcm_CT, file, int(start))
        energy = float(np.square(pcm_CT, dtype=np.float64).sum())
        if best is None or energy > best[0]:
            best = (energy, int(start), pcm_CT)
    assert best is not None
    _, start, pcm_CT = best
    return Excerpt(
        index=index,
        source=file.path,
        start_s=start / corpus.sample_rate,
        audio_CT=torch.from_numpy(pcm_CT).float() / PCM_SCALE,
    )


class Moments:
    """When to make sounds, so that there are a few over the whole run and they cost next to nothing."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._passed = 0
        self._spent_s = 0.0

    def due(self, epoch: int, fraction: float, elapsed_s: float, takes_s: float) -> bool:
        """Whether to make sounds after this epoch.

        fraction: of the budget used; elapsed_s: of the whole run; takes_s: what sounds are expected to take.
        A resumed run goes on with the next moment.
        """
        self._passed = sum(fraction >= each for each in FRACTIONS)
        if self._next is None:
            self._next = 1 if epoch == 1 else self._passed + 1
        return self._passed >= self._next and takes_s <= self.allowance(elapsed_s)

    def allowance(self, elapsed_s: float) -> float:
        """Seconds that sounds may take now."""
        return max(0.0, MOST_SHARE * elapsed_s - self._spent_s)

    def took(self, seconds: float, *, made: bool = True) -> None:
        """So long it took; without sounds `made` it is still the moment for them."""
        self._spent_s += seconds
        if made:
            self._next = self._passed + 1


class ExcerptDecoder:
    """The excerpts of a codec run: the originals once, their decodings at each moment."""

    def __init__(self, corpus: Corpus) -> None:
        self._moments = Moments()
        self._excerpts = read_excerpts(corpus)
        self._rate = corpus.sample_rate
        self._seconds = sum(each.audio_CT.shape[1] for each in self._excerpts) / corpus.sample_rate
        self._takes_s: float | None = None
        self._has_originals = False

    def samples(
        self, model: VQVAE, progress: Progress, pace: Pace, *, audio_seconds_per_second: float
    ) -> Iterator[AudioSample]:
        """What there is to hear after an epoch: what `model`, in eval mode, makes of the excerpts where it is
        a moment for it, and the originals, once. audio_seconds_per_second: how fast it is trained.
        """
        if not self._has_originals:
            self._has_originals = True
            for each in self._excerpts:
                yield self._sample("original", each, each.audio_CT, Progress())
        takes_s = self._takes_s
        if takes_s is None and audio_seconds_per_second > 0:
            takes_s = self._seconds / audio_seconds_per_second / _STEP_TO_DECODING
        if not self._moments.due(progress.epoch, pace.fraction, pace.elapsed_s, takes_s or 0.0):
            return
        began = time.perf_counter()
        device = model.quantizer.codebooks_QKD.device
        for each in self._excerpts:
            codes_BQT = model.encode(each.audio_CT[None].to(device))
            decoded_CT = model.decode(codes_BQT, each.audio_CT.shape[1])[0]
            yield self._sample("decoded", each, decoded_CT, progress)
        self._takes_s = time.perf_counter() - began
        self._moments.took(self._takes_s)

    def _sample(self, kind: str, excerpt: Excerpt, audio_CT: Tensor, progress: Progress) -> AudioSample:
        return AudioSample(
            kind=kind,
            file=_name(kind, progress.epoch, excerpt.index),
            index=excerpt.index,
            epoch=progress.epoch,
            step=progress.step,
            source=excerpt.source,
            start_s=excerpt.start_s,
            content=flac(audio_CT, self._rate),
        )


class CodeGenerator:
    """What a prior in training generates at each moment, as codes."""

    def __init__(self, *, frame_rate: float, seed: int) -> None:
        self._moments = Moments()
        self._frame_rate = frame_rate
        self._shortest = _SHORTEST_SECONDS * frame_rate
        self._takes_s = 0.0
        self._seed = seed

    def samples(self, prior: CodePrior, progress: Progress, pace: Pace) -> Iterator[AudioSample]:
        """Sounds of `SECONDS`, shorter and fewer where the prior is too slow for its share of the time;
        nothing where it is no moment for them.
        """
        if not self._moments.due(progress.epoch, pace.fraction, pace.elapsed_s, self._takes_s):
            return
        began, drawn = time.perf_counter(), 0
        until = began + self._moments.allowance(pace.elapsed_s)
        for index in range(_GENERATED):
            if drawn and time.perf_counter() + self._takes_s > until:
                break
            frames_QF = self._drawn(prior, index, until=until)
            drawn += frames_QF.shape[1]
            self._takes_s = (time.perf_counter() - began) / drawn * self._shortest
            if frames_QF.shape[1] >= self._shortest:
                yield AudioSample(
                    kind="generated",
                    file=_name("generated", progress.epoch, index),
                    index=index,
                    epoch=progress.epoch,
                    step=progress.step,
                    codes=tuple(map(tuple, frames_QF.tolist())),
                )
        self._moments.took(time.perf_counter() - began, made=drawn >= self._shortest)

    def _drawn(self, prior: CodePrior, index: int, *, until: float) -> Tensor:
        """Frames [Q, F] as long as there is time."""
        frames = round(SECONDS * self._frame_rate)
        generator = torch.Generator().manual_seed(self._seed * _GENERATED + index)
        blocks: list[Tensor] = []
        for block_BQF in stream_codes(
            prior,
            frames=frames,
            batch=1,
            sampling=SamplingConfig(),
            generator=generator,
            block_frames=_BLOCK_FRAMES.get(prior.heads_QKE.device.type, _BLOCK_FRAMES_ELSEWHERE),
        ):
            blocks.append(block_BQF[0].cpu())
            if time.perf_counter() > until:
                break
        return torch.cat(blocks, dim=1)


def _name(kind: str, epoch: int, index: int) -> str:
    return f"original-{index}.flac" if kind == "original" else f"{kind}-e{epoch:05d}-{index}.flac"


def flac(audio_CT: Tensor, sample_rate: int) -> str:
    """A FLAC file of 16 bits as base64 text."""
    content = io.BytesIO()
    values_TC = np.rint(audio_CT.detach().float().cpu().numpy().T * np.float32(PCM_SCALE))
    pcm_TC = np.clip(values_TC, -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
    soundfile.write(content, pcm_TC, sample_rate, format="FLAC", subtype="PCM_16")
    return base64.b64encode(content.getvalue()).decode()
