"""`fill`: a gap in a recording filled with sound that leads from what comes before to what comes after.

Legend: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import FillSettings, SamplingConfig
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.errors import UsageError
from distill_ray.generate.chunks import decoded
from distill_ray.generate.edit import (
    Audio,
    Edit,
    EditedSound,
    Recording,
    drawn_anew,
    filling_prior,
    read_recording,
    seeded,
)
from distill_ray.generate.seams import measure_seams

FADE_S = 0.05


def fill(
    loaded: LoadedVQModel,
    audio: Audio,
    settings: FillSettings,
    sampling: SamplingConfig,
    *,
    seed: int,
) -> Edit:
    """The recording with seconds `settings.start` to `settings.stop`, and what is left of their code frames,
    drawn anew.

    The rest stays as it is, to the sample, but for 50 ms on each side in which it is crossfaded with what the
    codec makes of it; with `settings.decoded` all of it is as the codec decodes it.

    Raises BundleError for a model whose prior has not learnt to fill in, UsageError for a gap that is not
    within the recording or leaves nothing of it, and AudioError for a recording that cannot be used.
    """
    prior, config = filling_prior(loaded), loaded.vqvae_config
    recording = read_recording(loaded, audio)
    first, last = _gap(recording, settings, config)
    masked_QF = torch.zeros(recording.codes_QF.shape, dtype=torch.bool)
    masked_QF[:, first:last] = True
    hop = config.frame_hop
    seams = [frame * hop for frame in (first, last) if 0 < frame < recording.frames]
    before_CT, after_CT = recording.audio_CT[:, : first * hop], recording.audio_CT[:, last * hop :]

    def sound(number: int, on_step: Callable[[float], None]) -> EditedSound:
        codes_QF = drawn_anew(prior, recording.codes_QF, masked_QF, sampling, seeded(seed, number), on_step)
        audio_CT = decoded(loaded.model, codes_QF, recording.samples)
        if not settings.decoded:
            audio_CT = put_in(
                recording.audio_CT,
                audio_CT,
                first * hop,
                min(last * hop, recording.samples),
                fade=min(hop, round(FADE_S * config.sample_rate)),
            )
        return EditedSound(
            audio_CT=audio_CT,
            seams=measure_seams(
                audio_CT,
                seams,
                [before_CT, after_CT],
                sample_rate=config.sample_rate,
                frame_hop=hop,
            ),
            method="filled",
            redrawn=float(masked_QF.float().mean()),
        )

    inputs = (audio,) if isinstance(audio, Path) else ()
    asked = {"from": settings.start, "to": settings.stop, "decoded": settings.decoded}
    return Edit(command="fill", inputs=inputs, asked=asked, sound=sound)


def _gap(recording: Recording, settings: FillSettings, config: VQVAEConfig) -> tuple[int, int]:
    """First frame of the gap, and the first one after it."""
    seconds = recording.samples / config.sample_rate
    if settings.stop > seconds + 0.5 / config.sample_rate:
        raise UsageError(
            f"the gap from {settings.start:g} to {settings.stop:g} s ends after {recording.name}, which "
            f"lasts {seconds:.3f} s; give a smaller --to"
        )
    first = int(settings.start * config.frame_rate)
    last = min(recording.frames, max(first + 1, math.ceil(settings.stop * config.frame_rate)))
    if last - first >= recording.frames:
        raise UsageError(
            f"the gap from {settings.start:g} to {settings.stop:g} s leaves nothing of {recording.name}; "
            "`distill-ray generate` makes sound from nothing"
        )
    return first, last


def put_in(original_CT: Tensor, made_CT: Tensor, start: int, stop: int, *, fade: int) -> Tensor:
    """The original with samples `start` to `stop` of the other, and crossfades of equal power outside them.

    (A decoder may invent its phases: what is added up is not alike to the sample.)
    """
    samples = original_CT.shape[1]
    place_T = torch.arange(samples)
    outside_T = torch.maximum(start - place_T, place_T - (stop - 1)).clamp(min=0)
    share_T = (outside_T / (fade + 1)).clamp(max=1.0)
    angle_T = share_T * (math.pi / 2)
    mixed_CT = original_CT * angle_T.sin() + made_CT * angle_T.cos()
    return torch.where(share_T < 1.0, mixed_CT, original_CT).clamp(-1.0, 1.0)
