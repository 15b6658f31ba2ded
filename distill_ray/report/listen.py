"""The sounds of a report: kept samples of a run, excerpts decoded by the finished model, new sounds of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from distill_ray.events.records import AudioSample
from distill_ray.report.event_log import Told
from distill_ray.report.facts import Sound, SoundGroup
from distill_ray.report.numbers import moment, short_path
from distill_ray.report.sound import read_sound
from distill_ray.runs.samples import FOLDER

if TYPE_CHECKING:
    from distill_ray.bundle import LoadedVQModel
    from distill_ray.corpus import Corpus

KEPT = "by the kept model"
NEW_SECONDS = 6.0
"""Of a sound that is made for a report."""


def kept_samples(folder: Path, told: Told, kind: str) -> list[tuple[AudioSample, Sound]]:
    """The samples of one kind that are still in a run's folder, in the order in which they were made."""
    found = []
    for sample in told.samples:
        path = folder / FOLDER / sample.file
        if sample.kind == kind and path.parent == folder / FOLDER:
            sound = _read(path, "original" if kind == "original" else f"epoch {sample.epoch}")
            if sound is not None:
                found.append((sample, sound))
    return found


def held_out(folder: Path, told: Told, model: LoadedVQModel | None) -> tuple[SoundGroup, ...]:
    """Each excerpt with its decodings at several epochs, and by the model that was kept."""
    decoded = kept_samples(folder, told, "decoded")
    groups = []
    for sample, original in kept_samples(folder, told, "original"):
        own = [sound for each, sound in decoded if each.index == sample.index]
        final = [_decoded(model, original)] if model is not None else []
        title = _title(sample.source, sample.start_s)
        groups.append(SoundGroup(title=title, sounds=(original, *own, *final)))
    return tuple(groups)


def held_out_of(corpus: Corpus, model: LoadedVQModel) -> tuple[SoundGroup, ...]:
    """The excerpts that a run on this corpus would keep, decoded by the model."""
    from distill_ray.training.samples import read_excerpts

    return tuple(
        SoundGroup(
            title=_title(excerpt.source, excerpt.start_s),
            sounds=(original, _decoded(model, original)),
        )
        for excerpt in read_excerpts(corpus)
        for original in (
            Sound(
                label="original",
                audio_TC=np.ascontiguousarray(excerpt.audio_CT.numpy().T),
                sample_rate=corpus.sample_rate,
            ),
        )
    )


def _title(source: str, start_s: float) -> str:
    return f"{short_path(source)} from {moment(start_s)}"


def generated(folder: Path, told: Told) -> tuple[SoundGroup, ...]:
    """What the prior made while it was trained, a group an epoch."""
    samples = kept_samples(folder, told, "generated")
    groups = itertools.groupby(samples, key=lambda each: each[0].epoch)
    return tuple(
        SoundGroup(
            title=f"After epoch {epoch} of the prior's training",
            sounds=tuple(replace(sound, label=f"sound {sample.index + 1}") for sample, sound in group),
        )
        for epoch, group in groups
    )


def made(paths: Sequence[Path]) -> tuple[SoundGroup, ...]:
    """Sound files of the finished model."""
    sounds = tuple(sound for path in paths if (sound := _read(path, path.name)) is not None)
    return (SoundGroup(title="By the finished model", sounds=sounds),) if sounds else ()


def _decoded(model: LoadedVQModel, original: Sound) -> Sound:
    import torch

    audio_CT = torch.from_numpy(np.ascontiguousarray(original.audio_TC.T)).to(model.device)
    with torch.inference_mode():
        codes_BQT = model.model.encode(audio_CT[None])
        decoded_CT = model.model.decode(codes_BQT, audio_CT.shape[1])[0].cpu()
    return Sound(
        label=KEPT, audio_TC=np.ascontiguousarray(decoded_CT.numpy().T), sample_rate=original.sample_rate
    )


def _read(path: Path, label: str) -> Sound | None:
    try:
        sound = read_sound(path, label)
        return sound if len(sound.audio_TC) else None
    except (OSError, soundfile.LibsndfileError) as error:
        logging.getLogger(__name__).info("%s is left out of the report: %s", path, error)
        return None
