"""`vary`: variations of a recording, from a near copy to a free sound of the same length.

Legend: Q RVQ levels, F code frames.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import GenerationSettings, SamplingConfig, VarySettings
from distill_ray.generate.chunks import decoded
from distill_ray.generate.edit import Audio, Edit, EditedSound, drawn_anew, read_recording, seeded
from distill_ray.generate.request import check_prior, make_request
from distill_ray.generate.seams import measure_seams
from distill_ray.prior.masking import kept_depths

_SPAN_S = 1.0
_MOST_SEAMS = 64


def vary(
    loaded: LoadedVQModel,
    audio: Audio,
    settings: VarySettings,
    sampling: SamplingConfig,
    *,
    seed: int,
) -> Edit:
    """The share `settings.strength` of the recording's codes drawn anew: fine levels first, and in stretches
    of about a second sooner than in others. At 0 it is what the codec makes of the recording, at 1 nothing of
    it is left.

    A prior that has learnt to fill in looks both ways, another one continues what came before and keeps the
    coarse codes that stay. Raises BundleError where codes are to be drawn and the model has no prior, and
    AudioError for a recording that cannot be used.
    """
    prior = check_prior(loaded) if settings.strength else None
    config = loaded.vqvae_config
    recording = read_recording(loaded, audio)
    levels, frames = recording.codes_QF.shape

    def sound(number: int, on_step: Callable[[float], None]) -> EditedSound:
        own_seed = seeded(seed, number)
        kept_F = kept_depths(
            np.random.default_rng(own_seed),
            levels,
            frames,
            strength=settings.strength,
            span=_SPAN_S * config.frame_rate,
        )
        masked_QF = torch.from_numpy(kept_F <= np.arange(levels)[:, None])
        codes_QF, method = recording.codes_QF, "codec"
        if prior is not None and not kept_F.any():
            # Nothing is left to keep to: a sound as `generate` makes it.
            wanted = GenerationSettings(seconds=recording.samples / config.sample_rate, seed=seed)
            request = make_request(loaded, wanted, sampling, None)
            codes_QF = request.codes(number, lambda frame: on_step(frame / frames))[0].cpu()
            method = "continued"
        elif prior is not None:
            codes_QF = drawn_anew(prior, recording.codes_QF, masked_QF, sampling, own_seed, on_step)
            method = "continued" if prior.masks is None else "filled"
        audio_CT = decoded(loaded.model, codes_QF, recording.samples)
        places = (np.flatnonzero(np.diff(kept_F)) + 1) * config.frame_hop
        return EditedSound(
            audio_CT=audio_CT,
            seams=measure_seams(
                audio_CT,
                places[:: -(-len(places) // _MOST_SEAMS) or 1].tolist(),
                [recording.audio_CT],
                sample_rate=config.sample_rate,
                frame_hop=config.frame_hop,
            ),
            method=method,
            redrawn=float(masked_QF.float().mean()),
        )

    inputs = (audio,) if isinstance(audio, Path) else ()
    return Edit(command="vary", inputs=inputs, asked={"strength": settings.strength}, sound=sound)
