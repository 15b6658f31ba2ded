"""`loop`: sound whose end leads into its beginning.

The last part of a loop is filled in between what comes before it and the beginning, and the decoder is fed
cyclically, so that there is no first sample.

Legend: C channels, T samples, Q RVQ levels, F code frames, L latent channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import GenerationSettings, SamplingConfig
from distill_ray.errors import AudioError, UsageError
from distill_ray.generate.chunks import decoded
from distill_ray.generate.edit import (
    Audio,
    Edit,
    EditedSound,
    Recording,
    drawn_anew,
    read_recording,
    seeded,
)
from distill_ray.generate.fill import FADE_S
from distill_ray.generate.request import check_prior, make_request
from distill_ray.generate.seams import measure_seams

BRIDGE_S = 2.0
"""So much of the end is filled in, but a third of the loop at most."""
LEAST_FRAMES = 4
_ALIKE_FRAMES = 4
"""Frames on each side of a cut that are compared, where nothing can be filled in."""
_ROOM_S = 10.0
"""How much longer a sound is made for a cut to be looked for."""


def loop(
    loaded: LoadedVQModel,
    audio: Audio | None,
    settings: GenerationSettings,
    sampling: SamplingConfig,
) -> Edit:
    """Loops of exactly round(seconds · sample_rate) samples: generated ones, or the beginning of a recording.

    A prior that has learnt to fill in makes the last part, up to 2 s and a third. With another one the loop
    is cut where the sound is most alike at both ends. A loop of a number of code frames that is no whole one
    is made of the nearest whole number and resampled, by half a frame at most.

    Raises BundleError where the model has no prior, UsageError for less than four code frames and AudioError
    for a recording that cannot be used or is too short.
    """
    prior, config = check_prior(loaded), loaded.vqvae_config
    samples = round(settings.seconds * config.sample_rate)
    frames = round(samples / config.frame_hop)
    if frames < LEAST_FRAMES:
        raise UsageError(
            f"a loop needs {LEAST_FRAMES} code frames, {LEAST_FRAMES / config.frame_rate:.3f} s, and "
            f"{settings.seconds:g} s are asked for; give a larger -d"
        )
    recording = None if audio is None else read_recording(loaded, audio)
    bridge = max(1, min(math.ceil(BRIDGE_S * config.frame_rate), frames // 3))

    def sound(number: int, on_step: Callable[[float], None]) -> EditedSound:
        if prior.masks is None:
            codes_QF, method, seam = (
                _cut(loaded, recording, frames, settings, sampling, number),
                "cut",
                frames,
            )
        else:
            body_QF = _body(loaded, recording, frames - bridge, settings, sampling, number)
            # Turned round, so that what is filled in is in the middle and sees both sides.
            turn = bridge + (frames - bridge) // 2
            codes_QF = torch.roll(functional.pad(body_QF, (0, bridge)), turn, dims=1)
            masked_QF = torch.zeros(codes_QF.shape, dtype=torch.bool)
            masked_QF[:, turn - bridge : turn] = True
            own_seed = seeded(settings.seed, number)
            codes_QF = drawn_anew(prior, codes_QF, masked_QF, sampling, own_seed, on_step)
            codes_QF, method, seam = torch.roll(codes_QF, -turn, dims=1), "filled", frames - bridge
        audio_CT = _round_sound(loaded, codes_QF, samples)
        twice_CT = torch.cat((audio_CT, audio_CT), dim=1)
        places = sorted({round(seam * samples / frames), samples})
        return EditedSound(
            audio_CT=audio_CT,
            seams=measure_seams(
                twice_CT,
                places,
                [audio_CT if recording is None else recording.audio_CT],
                sample_rate=config.sample_rate,
                frame_hop=config.frame_hop,
                compared_with="the loop itself" if recording is None else "the recording",
            ),
            method=method,
            redrawn=0.0 if method == "cut" else bridge / frames,
        )

    inputs = (audio,) if isinstance(audio, Path) else ()
    return Edit(command="loop", inputs=inputs, asked={"seconds": settings.seconds}, sound=sound)


def _body(
    loaded: LoadedVQModel,
    recording: Recording | None,
    frames: int,
    settings: GenerationSettings,
    sampling: SamplingConfig,
    number: int,
) -> Tensor:
    """codes_QF of so many frames: the recording's first ones, or new ones."""
    config = loaded.vqvae_config
    if recording is None:
        seconds = frames * config.frame_hop / config.sample_rate
        request = make_request(loaded, dataclasses.replace(settings, seconds=seconds), sampling, None)
        codes_QF: Tensor = request.codes(number, lambda frame: None)[0].cpu()
        return codes_QF[:, :frames]
    if recording.frames < frames:
        raise AudioError(
            f"{recording.name} lasts {recording.samples / config.sample_rate:.3f} s and a loop of "
            f"{settings.seconds:g} s needs {frames / config.frame_rate:.3f} s of it; give a smaller -d"
        )
    return recording.codes_QF[:, :frames]


def _cut(
    loaded: LoadedVQModel,
    recording: Recording | None,
    frames: int,
    settings: GenerationSettings,
    sampling: SamplingConfig,
    number: int,
) -> Tensor:
    """codes_QF of the `frames` frames whose surroundings are most alike at both ends."""
    needed = frames + 2 * _ALIKE_FRAMES
    room = 0
    if recording is None:
        room = math.ceil(_ROOM_S * loaded.vqvae_config.frame_rate)
    elif recording.frames >= needed:
        room = recording.frames - needed
    codes_QF = _body(loaded, recording, needed + room, settings, sampling, number)
    latents_FL = loaded.model.quantizer.decode(codes_QF[None].to(loaded.device))[0].cpu()
    apart_F = (latents_FL[:-frames] - latents_FL[frames:]).square().sum(dim=1)
    alike_F = functional.avg_pool1d(apart_F[None, None], 2 * _ALIKE_FRAMES, stride=1)[0, 0]
    start = int(alike_F.argmin()) + _ALIKE_FRAMES
    return codes_QF[:, start : start + frames]


def _round_sound(loaded: LoadedVQModel, codes_QF: Tensor, samples: int) -> Tensor:
    """audio_CT of codes that follow on themselves, of so many samples."""
    frames, hop = codes_QF.shape[1], loaded.vqvae_config.frame_hop
    context = loaded.model.decoder.context_frames
    around_F = torch.arange(-context, frames + context) % frames
    around_CT = decoded(loaded.model, codes_QF[:, around_F], len(around_F) * hop)
    first, last = context * hop, (context + frames) * hop
    audio_CT = around_CT[:, first:last].clone()
    if loaded.vqvae_config.gives_magnitudes:
        # Phases are found as the sound goes on and do not come round: what would follow the end fades out
        # over the beginning.
        fade = min(hop, round(FADE_S * loaded.vqvae_config.sample_rate))
        angle_T = torch.arange(fade) / fade * (math.pi / 2)
        follows_CT = around_CT[:, last : last + fade]
        audio_CT[:, :fade] = audio_CT[:, :fade] * angle_T.sin() + follows_CT * angle_T.cos()
    if samples == frames * hop:
        return audio_CT
    # A Fourier series of another number of samples: what goes round stays round.
    spectrum_CK = torch.fft.rfft(audio_CT.double())
    scaled_CT: Tensor = torch.fft.irfft(spectrum_CK, n=samples) * (samples / (frames * hop))
    return scaled_CT.float().clamp(-1.0, 1.0)
