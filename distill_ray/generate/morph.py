"""`morph`: from one recording to another through the codec's latents; it needs no prior.

The codec adds up one vector for each RVQ level. Each level goes from the one recording's to the other's on
the arc between them (Shoemake 1985), and not all levels at the same time.

Legend: C channels, T samples, Q RVQ levels, F code frames, L latent channels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import MorphSettings
from distill_ray.generate.chunks import CHUNK_FRAMES
from distill_ray.generate.edit import Audio, Edit, EditedSound, read_recording, seeded
from distill_ray.generate.seams import measure_seams
from distill_ray.vqvae import VQVAE, decode_latents

_SPREAD, _WIDTH = 0.2, 0.6
"""A level's way from one to the other takes this share of the sound, and its middle is moved by so much at
most."""
_MOST_MOMENTS = 64


def morph(loaded: LoadedVQModel, first: Audio, second: Audio, settings: MorphSettings, *, seed: int) -> Edit:
    """A sound as long as the shorter recording that begins as the first and ends as the second; with
    `settings.at` one that is the same mixture throughout. The seed says when each level goes over.

    Raises AudioError for a recording that cannot be used.
    """
    config = loaded.vqvae_config
    recordings = [read_recording(loaded, audio) for audio in (first, second)]
    frames = min(each.frames for each in recordings)
    samples = min(each.samples for each in recordings)
    one_QFL, other_QFL = (
        level_vectors(loaded.model, each.codes_QF[:, :frames].to(loaded.device)) for each in recordings
    )

    def sound(number: int, on_step: Callable[[float], None]) -> EditedSound:
        weights_QF = level_weights(len(one_QFL), frames, settings.at, seeded(seed, number))
        latent_FL = between(one_QFL, other_QFL, weights_QF.to(loaded.device)).sum(dim=0)
        whole_CT = decode_latents(loaded.model, latent_FL, chunk_frames=CHUNK_FRAMES)
        audio_CT = whole_CT[:, :samples].clamp(-1.0, 1.0)
        places = torch.arange(1, frames) * config.frame_hop
        return EditedSound(
            audio_CT=audio_CT,
            seams=measure_seams(
                audio_CT,
                places[:: -(-len(places) // _MOST_MOMENTS) or 1].tolist(),
                [each.audio_CT for each in recordings],
                sample_rate=config.sample_rate,
                frame_hop=config.frame_hop,
                compared_with="the recordings",
            ),
            method="latents",
            redrawn=0.0,
        )

    inputs = tuple(audio for audio in (first, second) if isinstance(audio, Path))
    return Edit(command="morph", inputs=inputs, asked={"at": settings.at}, sound=sound)


@torch.no_grad()
def level_vectors(codec: VQVAE, codes_QF: Tensor) -> Tensor:
    """vectors_QFL float32: what each level adds to the latents."""
    sums_QFL = torch.stack(
        [codec.quantizer.decode(codes_QF[None, : level + 1])[0] for level in range(len(codes_QF))]
    )
    return torch.cat((sums_QFL[:1], sums_QFL.diff(dim=0)))


def level_weights(levels: int, frames: int, at: float | None, seed: int) -> Tensor:
    """weights_QF: 0 is the first recording, 1 the second."""
    moved_Q1 = torch.rand(levels, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    if at is not None:
        # Exactly the recordings at both ends.
        return (at + moved_Q1 * at * (1 - at)).expand(levels, frames)
    time_F = torch.linspace(0.0, 1.0, frames) if frames > 1 else torch.full((1,), 0.5)
    way_QF = ((time_F - 0.5 - _SPREAD * moved_Q1) / _WIDTH + 0.5).clamp(0.0, 1.0)
    return way_QF * way_QF * (3 - 2 * way_QF)


def between(one: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """Vectors [..., L] on the arcs between two each, with lengths in between; weights [...] from 0 to 1."""
    lengths = torch.stack((one.norm(dim=-1), other.norm(dim=-1)))
    cosine = (functional.normalize(one, dim=-1) * functional.normalize(other, dim=-1)).sum(-1).clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    # Along a line where there is no arc: alike, opposite or no vectors.
    straight = sine < 1e-3
    divisor = torch.where(straight, torch.ones_like(sine), sine)
    shares = torch.stack(
        (
            torch.where(straight, 1 - weights, torch.sin((1 - weights) * angle) / divisor),
            torch.where(straight, weights, torch.sin(weights * angle) / divisor),
        )
    )
    units = torch.stack((functional.normalize(one, dim=-1), functional.normalize(other, dim=-1)))
    length = torch.lerp(lengths[0], lengths[1], weights)
    mixed: Tensor = (shares[..., None] * units).sum(dim=0) * length[..., None]
    return mixed
