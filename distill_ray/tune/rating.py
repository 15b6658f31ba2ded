"""Objective "generation": what a trial's codec is worth to whoever wants new sound.

After its codec, a trial trains a short prior on its codes, in its own process (`run_trial.py`), generates
and is judged (`TrialRater`). Judging is a seam: `SoundJudge` takes codec and codes, and the one of real
searches, `CorpusJudge`, is fitted once and shared by all trials.

Legend: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import GenerationSettings
from distill_ray.config.vqvae import VQTrainConfig
from distill_ray.corpus import open_corpus
from distill_ray.evaluate.copies import CopyDetector
from distill_ray.evaluate.corpus_reference import corpus_pieces, corpus_reference, piece_sounds
from distill_ray.evaluate.extraction import corpus_copy_detector
from distill_ray.evaluate.reference import FEWEST_WINDOWS, Reference
from distill_ray.evaluate.sound import Sound
from distill_ray.evaluate.windows import windows_of
from distill_ray.events.records import (
    CodecJudged,
    GeneratedScore,
    StageProgress,
    TrainingCompleteEvent,
)
from distill_ray.generate.request import make_request
from distill_ray.prior.gains import level_gains
from distill_ray.prior.memorization import COPIES
from distill_ray.runs.run_folder import RunFolder
from distill_ray.storage.filesystem import absolute
from distill_ray.training.worker import Listener, StopFlag
from distill_ray.tune.short_prior import PriorTrainer, ShortPrior
from distill_ray.tune.step_budget import CODEC_SHARE, PRIOR_SHARE
from distill_ray.vqvae.health import HealthRule

if TYPE_CHECKING:
    from distill_ray.corpus import Corpus

SOUND_SECONDS = 10.0
_WINDOWS = {"cpu": 96, "cuda": 240}
"""Windows of 1.5 s that are generated and judged; from 240 on the judge tells tracks apart."""


LEAST_PRIOR_STEPS = 100
"""Of a prior that has learnt little by fewer, the codec is not to blame."""
_MOST_HELD_OUT = 200.0
"""Seconds of held-out audio that are decoded and judged; of more, pieces spread evenly."""


@dataclass(frozen=True, kw_only=True)
class JudgedDepths:
    """What the judge says of each depth; `copied`: whether the sounds are copies of training audio."""

    scores: tuple[GeneratedScore, ...]
    copied: bool


class SoundJudge(Protocol):
    """Generates with a model and judges it, with its first 1, 2, … levels."""

    def __call__(self, loaded: LoadedVQModel, depths: Sequence[int], listener: Listener) -> JudgedDepths:
        """`loaded` has a prior."""
        ...


@dataclass(frozen=True, kw_only=True)
class CorpusJudge:
    """The judge of a corpus (its URI), as all trials of a search use it."""

    corpus: str
    reference: Reference
    detector: CopyDetector
    seed: int = 0

    @classmethod
    def fit(
        cls, corpus: Corpus, *, seed: int, accelerator: bool, on_progress: Callable[[StageProgress], None]
    ) -> CorpusJudge:
        """Measure the corpus. Raises AudioError where it is too short to be judged by."""
        device = "cuda" if accelerator and torch.cuda.is_available() else "cpu"
        return cls(
            corpus=absolute(corpus.uri),
            reference=corpus_reference(corpus, device=device, on_progress=on_progress),
            # On the CPU, because it is sent to trials.
            detector=corpus_copy_detector(corpus, on_progress=on_progress),
            seed=seed,
        )

    def __call__(self, loaded: LoadedVQModel, depths: Sequence[int], listener: Listener) -> JudgedDepths:
        """Every depth decodes the same codes, of sounds that all levels were generated of."""
        device, levels = loaded.device, loaded.vqvae_config.num_quantizers
        codes, held_out_codes = list(self._codes(loaded, listener)), list(self._held_out(loaded))
        sounds = list(_decoded(loaded, codes, levels))
        copies = self.detector.find(sounds)
        scores: list[GeneratedScore] = []
        for depth in depths:
            note, done, total = f"{depth} levels", len(scores), len(depths)
            listener(StageProgress(stage="judge", done=done, total=total, note=note))
            made = sounds if depth == levels else _decoded(loaded, codes, depth)
            generated = self.reference.judge(made, seed=self.seed, device=device)
            again = _decoded(loaded, held_out_codes, depth)
            held_out = self.reference.judge(again, seed=self.seed, device=device)
            scores.append(GeneratedScore(levels=depth, generated=generated.ratio, decoded=held_out.ratio))
        return JudgedDepths(scores=tuple(scores), copied=copies.verdict == COPIES)

    def _codes(self, loaded: LoadedVQModel, listener: Listener) -> Iterator[_Codes]:
        count = math.ceil(_WINDOWS.get(loaded.device.type, 96) / windows_of(SOUND_SECONDS))
        settings = GenerationSettings(count=count, seconds=SOUND_SECONDS, seed=self.seed)
        request = make_request(loaded, settings, None, None)
        for group in range(-(-count // request.batch)):
            done = group * request.batch
            listener(StageProgress(stage="generate", done=done, total=count, note="sounds"))
            for number, codes_QF in enumerate(request.codes(group, lambda frame: None)[: count - done], done):
                yield _Codes(name=f"sound {number}", codes_QF=codes_QF)

    @torch.inference_mode()
    def _held_out(self, loaded: LoadedVQModel) -> Iterator[_Codes]:
        """Of training audio where too little is held out."""
        corpus = open_corpus(self.corpus)
        held_out = self.reference.held_out
        enough = held_out is not None and len(held_out.windows["short"]) >= FEWEST_WINDOWS
        pieces = corpus_pieces(corpus, "val" if enough else "train")
        seconds = sum(piece.samples for piece in pieces) / corpus.sample_rate
        for sound in piece_sounds(corpus, pieces[:: math.ceil(seconds / _MOST_HELD_OUT)]):
            codes_1QF = loaded.model.encode(sound.audio_CT[None].to(loaded.device))
            yield _Codes(name=sound.name, codes_QF=codes_1QF[0], samples=sound.audio_CT.shape[1])


@dataclass(frozen=True, kw_only=True)
class _Codes:
    """A sound's codes of all levels; samples: its length, by default what the codes have."""

    name: str
    codes_QF: Tensor
    samples: int | None = None


@torch.inference_mode()
def _decoded(loaded: LoadedVQModel, sounds: Sequence[_Codes], depth: int) -> Iterator[Sound]:
    """The sounds with the first `depth` levels of their codes."""
    for each in sounds:
        codes_1QF = each.codes_QF[None, :depth].to(loaded.device)
        audio_1CT = loaded.model.decode(codes_1QF, each.samples)
        yield Sound(each.name, audio_1CT[0].clamp(-1, 1).cpu(), loaded.vqvae_config.sample_rate)


@dataclass(frozen=True, kw_only=True)
class TrialRater:
    """Rates trials whose codec is trained. `judge` gives the one that all trials share."""

    trainer: PriorTrainer
    rule: HealthRule
    judge: Callable[[], SoundJudge]

    def __call__(
        self,
        completed: TrainingCompleteEvent,
        run: RunFolder,
        config: VQTrainConfig,
        depths: tuple[int, ...],
        *,
        listener: Listener,
        stop: StopFlag,
    ) -> CodecJudged | None:
        """The codec in `run`, with its first levels as `depths` say; None once stopped.

        A level of which the prior learns nothing ends it before any sound is made.
        """
        from distill_ray.bundle import load_model_v2
        from distill_ray.runs.export import export_codec
        from distill_ray.storage.uploaded import newest_checkpoint

        checkpoint = newest_checkpoint(run.checkpoints, run.checkpoints_uri)
        assert checkpoint is not None, "its training has just ended"
        model = run.path / f"{run.path.name}.distill"
        export_codec(checkpoint, model, config, completed, dict(self.trainer.record))
        timed = config.training.max_minutes is not None
        minutes = completed.elapsed_s / 60.0 * PRIOR_SHARE / CODEC_SHARE if timed else None
        prior = self.trainer.train(model, run, config, listener=listener, stop=stop, minutes=minutes)
        if prior is None:
            return None
        device = "cuda" if self.trainer.accelerator and torch.cuda.is_available() else "cpu"
        loaded = load_model_v2(model, device=device)
        judged = self._as_learnt(prior)
        if judged.reason:
            return judged
        said = self.judge()(loaded, depths or (config.model.num_quantizers,), listener)
        return dataclasses.replace(judged, scores=said.scores, copied=said.copied)

    def _as_learnt(self, prior: ShortPrior) -> CodecJudged:
        """What the prior has learnt of each level at best, and whether that is too little.

        The weights that are kept may cost more: they may have learnt recordings by heart (decision 30).
        """
        train, held_out = prior.codes.codes("train"), prior.codes.codes("val")
        completed = prior.completed
        gains: tuple[float, ...] = ()
        if held_out and completed.steps >= LEAST_PRIOR_STEPS:
            gains = level_gains(completed.level_nats, train, held_out, prior.config.model.codebook_size)
        lows = [(level, self.rule.low_gain(gain)) for level, gain in enumerate(gains)]
        level, low = next(((level, low) for level, low in lows if low is not None), (0, None))
        return CodecJudged(
            prior_bits_per_second=prior.completed.bits_per_second,
            histogram_bits_per_second=prior.completed.histogram_bits_per_second,
            gains=gains,
            scores=(),
            copied=False,
            collapsed_level=None if low is None else level,
            reason="" if low is None else f"level {level}: {low.words}",
        )
