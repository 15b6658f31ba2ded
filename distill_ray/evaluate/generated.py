"""`evaluate --generated`: what a model makes, or a folder of audio, and what its codec makes of real audio,
each judged against a corpus.

Legend: C channels, T samples.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import JudgeSettings, SamplingConfig
from distill_ray.corpus import Corpus
from distill_ray.errors import AudioError, BundleError
from distill_ray.evaluate.audio_files import AudioFiles, find_sounds
from distill_ray.evaluate.corpus_reference import corpus_pieces, corpus_reference, piece_sounds
from distill_ray.evaluate.extraction import corpus_copy_detector, corpus_extraction
from distill_ray.evaluate.judgement import Judgement
from distill_ray.evaluate.reference import Progress, Reference
from distill_ray.evaluate.report import EvaluationReport
from distill_ray.evaluate.sound import Sound
from distill_ray.evaluate.windows import windows_of
from distill_ray.events.records import StageProgress
from distill_ray.generate import generate_samples

ENOUGH_WINDOWS = 240
"""What is generated where nobody says how much."""

OnProgress = Callable[[StageProgress], None]


@dataclass(frozen=True, kw_only=True)
class JudgedSounds:
    """What the judge says of generated and of decoded sound; `warnings`: of both, and of the files."""

    generated: Judgement
    decoded: Judgement
    warnings: tuple[str, ...]


def evaluate_generated(
    loaded: LoadedVQModel,
    corpus: Corpus,
    report: EvaluationReport,
    *,
    folder: Path | None = None,
    settings: JudgeSettings | None = None,
    sampling: SamplingConfig | None = None,
    on_progress: OnProgress | None = None,
) -> EvaluationReport:
    """`report` with `generated` and `decoded`, and their warnings; for the rest see `judge_generated`."""
    found = judge_generated(
        loaded, corpus, folder=folder, settings=settings, sampling=sampling, on_progress=on_progress
    )
    return dataclasses.replace(
        report,
        generated=found.generated,
        decoded=found.decoded,
        warnings=(*report.warnings, *found.warnings),
    )


def judge_generated(
    loaded: LoadedVQModel,
    corpus: Corpus,
    *,
    folder: Path | None = None,
    settings: JudgeSettings | None = None,
    sampling: SamplingConfig | None = None,
    on_progress: OnProgress | None = None,
) -> JudgedSounds:
    """Generated sound, and what the codec makes of recordings, each judged against the corpus.

    folder: audio of any tool to judge; None generates it, as `settings` and `sampling` say. Distances are
    those to the corpus's training files; what is decoded are its held-out files, or training files where it
    has none or too little of them.

    Raises BundleError for a model without a prior where it is to generate, AudioError where there is too
    little to judge or to judge by, and ConfigError for settings out of range.
    """
    settings = settings or JudgeSettings()
    check_generated(loaded, folder)
    reference = corpus_reference(corpus, device=loaded.device, on_progress=on_progress)
    with _sounds(loaded, folder, settings, sampling, on_progress) as sounds:
        generated = reference.judge(
            sounds, seed=settings.seed, device=loaded.device, on_progress=_telling(on_progress, len(sounds))
        )
        detector = corpus_copy_detector(corpus, device=loaded.device, on_progress=on_progress)
        copies = detector.find(sounds)
    generated = dataclasses.replace(generated, copies=copies)
    if folder is None:
        returned = corpus_extraction(loaded, corpus)
        generated = dataclasses.replace(
            generated,
            exact_continuations=returned.training_share,
            held_out_continuations=returned.held_out_share,
        )
    split = corpus.validation_split
    too_little: tuple[str, ...] = ()
    try:
        decoded = _judged_decoded(reference, loaded, corpus, split, settings, on_progress)
    except AudioError:
        if split == "train":
            raise
        decoded = _judged_decoded(reference, loaded, corpus, "train", settings, on_progress)
        too_little = ("decoded: training files, as there is too little held-out sound to judge",)
    return JudgedSounds(
        generated=generated,
        decoded=decoded,
        warnings=(
            *sounds.warnings,
            *too_little,
            *(f"generated: {text}" for text in generated.warnings),
            *(f"decoded: {text}" for text in decoded.warnings if text not in generated.warnings),
        ),
    )


def _judged_decoded(
    reference: Reference,
    loaded: LoadedVQModel,
    corpus: Corpus,
    split: str,
    settings: JudgeSettings,
    on_progress: OnProgress | None,
) -> Judgement:
    """What the codec makes of the recordings of a split; raises AudioError where these are too short."""
    pieces = corpus_pieces(corpus, split)
    return reference.judge(
        _decoded(loaded, piece_sounds(corpus, pieces)),
        seed=settings.seed,
        device=loaded.device,
        on_progress=_telling(on_progress, len(pieces)),
    )


def check_generated(loaded: LoadedVQModel, folder: Path | None) -> None:
    """What can be checked beforehand: raises as `evaluate_generated` for no prior and nothing in `folder`."""
    if folder is not None:
        _found(loaded, folder)
    elif loaded.prior is None:
        raise BundleError(
            f"{loaded.path} has no prior, so it generates nothing; train one with `distill-ray train-prior "
            f"{loaded.path} DATA`, or name a folder of audio after --generated"
        )


@contextmanager
def _sounds(
    loaded: LoadedVQModel,
    folder: Path | None,
    settings: JudgeSettings,
    sampling: SamplingConfig | None,
    on_progress: OnProgress | None,
) -> Iterator[AudioFiles]:
    """The files to judge; those that are generated for it go with the block."""
    if folder is not None:
        yield _found(loaded, folder)
        return
    with tempfile.TemporaryDirectory(prefix="distill-ray-generated-") as made:
        generate_samples(
            loaded,
            count=_count(settings),
            seconds=settings.seconds,
            sampling=sampling,
            seed=settings.seed,
            out_dir=Path(made),
            on_progress=on_progress,
        )
        yield _found(loaded, Path(made))


def _found(loaded: LoadedVQModel, folder: Path) -> AudioFiles:
    config = loaded.vqvae_config
    return find_sounds(folder, sample_rate=config.sample_rate, channels=config.channels)


def _count(settings: JudgeSettings) -> int:
    """How many sounds to generate."""
    if settings.count is not None:
        return settings.count
    return math.ceil(ENOUGH_WINDOWS / max(1, windows_of(settings.seconds)))


@torch.inference_mode()
def _decoded(loaded: LoadedVQModel, sounds: Iterator[Sound]) -> Iterator[Sound]:
    """Each sound through all levels of the codec."""
    for sound in sounds:
        audio_1CT = sound.audio_CT[None].to(loaded.device)
        decoded_1CT = loaded.model.decode(loaded.model.encode(audio_1CT), audio_1CT.shape[2])
        yield sound._replace(audio_CT=decoded_1CT[0].clamp(-1, 1).cpu())


def _telling(on_progress: OnProgress | None, total: int) -> Progress | None:
    if on_progress is None:
        return None
    return lambda done, name: on_progress(StageProgress.of_file("judge", done, total, name))
