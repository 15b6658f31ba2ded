"""Codes of recordings that are shifted, amplified and played faster or slower: what a prior trains on beside
the recordings themselves.

A sound falls differently into code frames each time it is played, and a small corpus shows one way of each.
`prior.py` asks for variants as it trains; each is a function of seed and number alone.

Legend: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import resample

from distill_ray.config.prior import PriorTrainConfig
from distill_ray.corpus import PCM_SCALE, AudioStore, open_corpus
from distill_ray.prior.windows import CodeWindowSampler
from distill_ray.training.conditions import Conditions
from distill_ray.vqvae import VQVAE, encode_long

GAIN_DB = 4.0
"""Largest change of level, up or down."""
SPEEDS = ((33, 32), (32, 33), (18, 17), (17, 18), (12, 11), (11, 12), (9, 8), (8, 9))
"""Numerators and denominators of changes of speed of half a semitone to two."""
VARIED_SPEED = 0.6
"""Share of the files whose speed is changed."""
_SEED, _JOIN_SEED = 1 << 41, 2 << 41
_TOGETHER_SECONDS = 60.0
"""Short files are encoded together, up to so much audio in all and a quarter of it each."""
_CHUNK_FRAMES = 1024


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """What variants are made of: the training files of the corpus at a URI, and the codec that encodes
    them."""

    corpus: str
    codec: VQVAE

    def retokeniser(self, config: PriorTrainConfig, device: torch.device) -> Retokeniser:
        return Retokeniser(self.corpus, self.codec, config, device=device)


class CodePool:
    """What a prior draws its windows from: the recordings' codes, and those of their newest variants.

    Every `variant_steps` steps a variant is made, and beyond `variants` of them the oldest one goes. Which
    there are depends on the step alone, so that a resumed run has those of an uncut one.

    With variants no recording ends for the prior: those shorter than a training window are joined, and each
    longer one goes on with the beginning of another, in an order that is random and another one in every
    variant. Windows would end with recordings, and what comes after a one-shot, or after the last bar of a
    piece, would be anybody's guess, for ever.

    Where the prior learns conditions, all sequences have their rows below the codes (`conditions.py`).
    """

    def __init__(
        self,
        train: Sequence[Tensor],
        config: PriorTrainConfig,
        retokeniser: Retokeniser | None,
        device: torch.device,
    ) -> None:
        self._frames = config.model.training_frames
        self._masked_share = config.model.masked_share
        self._attributes = config.model.attributes
        self._training = config.training
        self._train = list(train) if retokeniser is None else self._endless(train, 0)
        self._retokeniser = retokeniser
        self._device = device
        self._variants: dict[int, list[Tensor]] = {}
        self._sampler: CodeWindowSampler | None = None

    def made_before(self, step: int) -> int:
        """Variants that the steps before `step` have asked for."""
        return 1 + (step - 1) // self._training.variant_steps

    def sampler(self, step: int, unvaried_from: int | None = None) -> CodeWindowSampler:
        """The windows of step `step`; variants from number `unvaried_from` on are only shifted."""
        numbers = range(0)
        if self._retokeniser is not None:
            made = self.made_before(step + 1)
            numbers = range(max(0, made - self._training.variants), made)
        if self._sampler is None or list(self._variants) != list(numbers):
            made_before = self._variants
            self._variants = {
                number: made_before.get(number)
                or self._variant(number, varied=unvaried_from is None or number < unvaried_from)
                for number in numbers
            }
            varied = [codes_QF for codes in self._variants.values() for codes_QF in codes]
            self._sampler = CodeWindowSampler(
                [*self._train, *varied],
                self._frames,
                self._training.seed,
                attributes=self._attributes,
                masked_share=self._masked_share,
                replaced_share=self._training.replaced_share,
                device=self._device,
            )
        return self._sampler

    def _variant(self, number: int, *, varied: bool) -> list[Tensor]:
        assert self._retokeniser is not None
        return self._endless(self._retokeniser.variant(number, varied=varied), number + 1)

    def _endless(self, sequences: Sequence[Tensor], number: int) -> list[Tensor]:
        """The sequences, the short ones joined to ones of two windows and more, each followed by a window of
        the beginning of another; in an order of `number`.
        """
        rng = np.random.Generator(np.random.Philox(key=[self._training.seed + _JOIN_SEED, number]))
        joined = [codes_QF for codes_QF in sequences if codes_QF.shape[1] >= self._frames]
        short = [codes_QF for codes_QF in sequences if codes_QF.shape[1] < self._frames]
        parts: list[Tensor] = []
        for place in rng.permutation(len(short)):
            parts.append(short[place])
            if sum(part.shape[1] for part in parts) >= 2 * self._frames:
                joined.append(torch.cat(parts, dim=1))
                parts = []
        if parts:
            joined.append(torch.cat(parts, dim=1))
        order = rng.permutation(len(joined)).tolist()
        return [
            torch.cat((joined[place], joined[other][:, : self._frames]), dim=1)
            for place, other in zip(order, [*order[1:], order[0]], strict=True)
        ]


class Retokeniser:
    """Makes variants of the training files of the corpus at URI `corpus`, by `codec` on `device`."""

    def __init__(self, uri: str, codec: VQVAE, config: PriorTrainConfig, *, device: torch.device) -> None:
        corpus = open_corpus(uri)
        self._codec = codec.to(device).eval()
        self._store = AudioStore(corpus, "train", device)
        self._seed = config.training.seed
        self._groups = list(self._grouped())
        self.conditions = (
            Conditions(corpus, self._store, self._groups, config.model, codec.config)
            if config.model.controls
            else None
        )

    @torch.no_grad()
    def variant(self, number: int, *, varied: bool = True) -> list[Tensor]:
        """Codes int16 [Q, F] of every training file, in no order that matters, on the CPU; if not `varied`,
        of files that are shifted and no more.

        Where the prior learns conditions, their rows are below: [Q + A, F].
        """
        rng = np.random.Generator(np.random.Philox(key=[self._seed + _SEED, number]))
        return [codes_QF for group in self._groups for codes_QF in self._encoded(group, rng, varied)]

    def _grouped(self) -> Iterator[np.ndarray]:
        """Numbers of the files that are encoded together: short ones of similar length."""
        most = _TOGETHER_SECONDS * self._codec.config.sample_rate
        lengths_N = self._store.lengths_N
        group: list[int] = []
        for file in np.argsort(lengths_N, kind="stable"):
            if group and (len(group) + 1) * max(lengths_N[file], most / 64) > most:
                yield np.array(group)
                group = []
            group.append(int(file))
        if group:
            yield np.array(group)

    def _encoded(self, files: np.ndarray, rng: np.random.Generator, varied: bool) -> Iterator[Tensor]:
        """A group's codes; all of its files at one speed."""
        config = self._codec.config
        lead_B = rng.integers(0, config.frame_hop, size=len(files))
        gain_B = (10.0 ** (rng.uniform(-GAIN_DB, GAIN_DB, size=len(files)) / 20.0)).astype(np.float32)
        speed = SPEEDS[rng.integers(len(SPEEDS))] if rng.random() < VARIED_SPEED else (1, 1)
        if not varied:
            gain_B, speed = np.ones_like(gain_B), (1, 1)
        lengths_B = self._store.lengths_N[files]
        audio_BCT = self._store.gather(files, np.zeros_like(files), int(lengths_B.max()), lengths_B).float()
        audio_BCT = audio_BCT * (self._store.sent(gain_B)[:, None, None] / PCM_SCALE)
        audio_BCT = resample(audio_BCT, *speed)
        audio_BCT = audio_BCT / audio_BCT.abs().amax((1, 2), keepdim=True).clamp(min=1.0)
        # Silence comes before the recordings: were their beginnings cut, one-shots would lose their attacks.
        leads_BCT = torch.stack(
            [
                functional.pad(row_CT, (lead, config.frame_hop - lead))
                for row_CT, lead in zip(audio_BCT, lead_B.tolist(), strict=True)
            ]
        )
        samples_B = lead_B + -(-lengths_B * speed[1] // speed[0])
        if len(files) == 1:
            audio_CT = leads_BCT[0, :, : int(samples_B[0])]
            codes = [encode_long(self._codec, audio_CT, chunk_frames=_CHUNK_FRAMES).to(torch.int16).cpu()]
        else:
            codes_BQF = self._codec.encode(leads_BCT).to(torch.int16).cpu()
            frames_B = -(-samples_B // config.frame_hop)
            codes = [codes_QF[:, :frames] for codes_QF, frames in zip(codes_BQF, frames_B, strict=True)]
        if self.conditions is None:
            yield from codes
            return
        measured = self.conditions.measured(leads_BCT, samples_B)
        for codes_QF, file, values_AF in zip(codes, files.tolist(), measured, strict=True):
            yield self.conditions.rows_below(codes_QF, file, values_AF)
