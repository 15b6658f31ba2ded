"""What a finished prior generates, searched for copies of its training audio by the judge."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill_ray.errors import AudioError, BundleError
from distill_ray.events.records import Notice, PriorTrainingCompleteEvent

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.corpus import Corpus
    from distill_ray.evaluate.judgement import Copies
    from distill_ray.training.worker import Listener

_SOUNDS, _SECONDS = 8, 10.0
_MOST_CORPUS_SECONDS = 4 * 3600.0
"""Reading more than this takes too long for the end of a run; `evaluate --generated` looks at any amount."""


class _OutOfTimeError(Exception):
    """There is no time for the rest of the search."""


def judged_copies(
    model: Path,
    corpus: Corpus,
    completed: PriorTrainingCompleteEvent,
    listener: Listener,
    *,
    within_s: float | None = None,
) -> PriorTrainingCompleteEvent:
    """`completed` with the judge's word in its memorisation record, which `model` gets too.

    As it was where nothing is held out, the training audio is silent, too short or very long, or the search
    takes longer than `within_s`, which is said.
    """
    from distill_ray.bundle import load_model_v2, save_prior_to_model
    from distill_ray.prior.memorization import with_copies

    record = completed.memorization
    if record is None or corpus.seconds("train") > _MOST_CORPUS_SECONDS:
        return completed
    ends_at = math.inf if within_s is None else time.monotonic() + within_s

    def go_on(_event: object = None) -> None:
        if time.monotonic() > ends_at:
            raise _OutOfTimeError

    try:
        go_on()
        loaded = load_model_v2(model)
        assert loaded.prior is not None, "it was written with one"
        found = _found(loaded, corpus, go_on)
    except AudioError:
        return completed
    except _OutOfTimeError:
        what = "copies of training audio were not looked for, for lack of time"
        message = f"{what}: `distill-ray evaluate --generated` looks for them"
        listener(Notice(level="info", message=message))
        return completed
    judged = with_copies(record, found)
    if judged["is_memorizing"] and not record.get("is_memorizing"):
        listener(Notice(level="warning", message=judged["message"]))
    metadata = {**(loaded.prior_metadata or {}), "memorization": judged}
    try:
        save_prior_to_model(model, loaded.prior, prior_metadata=metadata, codec_sha256=loaded.codec_sha256)
    except BundleError as error:  # it has its prior
        listener(Notice(level="warning", message=f"the search for copies is not recorded: {error}"))
    return replace(completed, memorization=judged)


def _found(loaded: LoadedVQModel, corpus: Corpus, go_on: Callable[[object], None]) -> Copies:
    """On sounds drawn as `generate` draws them; `go_on` is called now and then, and may raise."""
    import torch

    from distill_ray.evaluate.extraction import corpus_copy_detector
    from distill_ray.evaluate.sound import Sound
    from distill_ray.prior import sample_codes

    assert loaded.prior is not None
    config = loaded.vqvae_config
    frames = max(1, round(_SECONDS * config.frame_rate))
    codes_BQF = sample_codes(
        loaded.prior,
        frames=frames,
        batch=_SOUNDS,
        generator=torch.Generator().manual_seed(0),
        on_frame=go_on,
    )
    with torch.inference_mode():
        audio_BCT = loaded.model.decode(codes_BQF, frames * config.frame_hop).clamp(-1, 1)
    sounds = [Sound(f"{number}", audio_CT, config.sample_rate) for number, audio_CT in enumerate(audio_BCT)]
    detector = corpus_copy_detector(corpus, on_progress=go_on)
    go_on(detector)
    return detector.find(sounds)
