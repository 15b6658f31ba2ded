"""A `.distill` file for notebooks and scripts: `load(path)` gives a `Model` that takes and returns arrays.

What works on files (`generate.py`, `transcode.py`) and this share `request.py` and `chunks.py`: the same
seed gives the same sound.
Legend: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from distill_ray.argument_names import names_arguments
from distill_ray.argument_types import checks_arguments, shown
from distill_ray.bundle.device import choose_device
from distill_ray.bundle.read import LoadedVQModel, load_model_v2
from distill_ray.config.generation import (
    GUIDANCE,
    FillSettings,
    GenerationSettings,
    MorphSettings,
    VarySettings,
)
from distill_ray.errors import AudioError, CodeShapeError
from distill_ray.generate.arrays import to_pcm
from distill_ray.generate.audio import write_audio
from distill_ray.generate.chunks import decoded, encode_blocks
from distill_ray.generate.edit import Audio, Edit
from distill_ray.generate.fill import fill
from distill_ray.generate.loop import loop
from distill_ray.generate.morph import morph
from distill_ray.generate.request import make_request
from distill_ray.generate.vary import vary
from distill_ray.generate.wish import Wish
from distill_ray.prior import Controls, SamplingConfig
from distill_ray.storage.paths import AnyPath, as_path
from distill_ray.threads import fit_threads

AudioInput = AnyPath | tuple[ArrayLike | Tensor, int]
"""A file, or audio [T] or [C, T] and its rate."""


class Sound(NamedTuple):
    """Audio and its rate; `audio_CT, rate = model.generate()` takes it apart."""

    audio_CT: Tensor
    """float32 [C, T] in [-1, 1], on the CPU."""
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.audio_CT.shape[1] / self.sample_rate

    @names_arguments
    @checks_arguments
    def save(self, path: AnyPath) -> Path:
        """Write it as wav, flac, ogg or mp3, by the suffix; returns the path.

        Raises AudioError for another suffix or where the file cannot be written.
        """
        target = as_path(path)
        write_audio(target, [self.audio_CT], sample_rate=self.sample_rate, channels=len(self.audio_CT))
        return target

    def __repr__(self) -> str:
        channels = len(self.audio_CT)
        return f"Sound({self.seconds:.3f} s, {channels} channel{'s'[: channels > 1]}, {self.sample_rate} Hz)"


class Model:
    """A codec, and its prior where the file has one."""

    def __init__(self, loaded: LoadedVQModel) -> None:
        self.loaded = loaded
        """The modules and the file's records."""

    @property
    def sample_rate(self) -> int:
        """Rate of what is generated and decoded, in Hz."""
        return self.loaded.vqvae_config.sample_rate

    @property
    def channels(self) -> int:
        """Channels of what is generated and decoded."""
        return self.loaded.vqvae_config.channels

    @property
    def has_prior(self) -> bool:
        """Whether it can generate."""
        return self.loaded.prior is not None

    @property
    def controls(self) -> Controls | None:
        """The labels and controls that `generate` can be asked for; None where the prior has learnt none."""
        return self.loaded.controls

    @names_arguments
    def generate(
        self,
        seconds: float = 10.0,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        start: str = "middle",
        like: Mapping[str, float] | None = None,
        label: str | None = None,
        guidance: float = GUIDANCE,
        prompt: AnyPath | tuple[ArrayLike | Tensor, int] | None = None,
    ) -> Sound:
        """A sound of round(seconds · sample_rate) samples: the first one of `generate --seed`.

        `prompt` is a file, or audio and its rate (see `encode`); the sound begins with it. `like` has
        controls in standard deviations from the corpus's middle (`{"brightness": 1.0}`), `label` the name of
        a folder of the recordings, `guidance` how firmly both are followed; `controls` says what there is.

        Raises BundleError where the model has no prior, ConfigError for settings out of range, UsageError
        for a wish that it cannot follow, and AudioError for a prompt that cannot be used, that is shorter
        than a code frame or that leaves nothing to generate.
        """
        settings = GenerationSettings(seconds=seconds, seed=seed)
        sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, start=start)
        wish = Wish(label=label, like=like or {}, guidance=guidance)
        if prompt is not None and not isinstance(prompt, str | os.PathLike):
            source = to_pcm(*_with_rate(prompt), self.loaded.vqvae_config)
            request = make_request(self.loaded, settings, sampling, source, wish)
        else:
            path = None if prompt is None else as_path(prompt)
            request = make_request(self.loaded, settings, sampling, path, wish)
        codes_QF = request.codes(0, _ignore)[0].cpu()
        return self._decoded(codes_QF, request.samples)

    @names_arguments
    def vary(
        self,
        audio: AudioInput,
        strength: float = 0.5,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Sound:
        """A variation of a recording; the first one of `vary --seed`.

        `audio` is a file, or audio and its rate (see `encode`). `strength` is the share of its codes that are
        drawn anew, from 0, what the codec makes of it, to 1, a free sound of its length. Raises as the
        functions of `generate/vary.py`, `fill.py`, `loop.py` and `morph.py` do.
        """
        sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
        source = self._audio("audio", audio)
        return self._edited(vary(self.loaded, source, VarySettings(strength=strength), sampling, seed=seed))

    @names_arguments
    def fill(
        self,
        audio: AudioInput,
        start: float,
        stop: float,
        *,
        decoded: bool = False,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Sound:
        """A recording (see `vary`) with seconds `start` to `stop` drawn anew; the first one of `fill --seed`.

        decoded: the rest is as the codec decodes it, too.
        """
        sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
        settings = FillSettings(start=start, stop=stop, decoded=decoded)
        return self._edited(fill(self.loaded, self._audio("audio", audio), settings, sampling, seed=seed))

    @names_arguments
    def loop(
        self,
        seconds: float = 10.0,
        audio: AudioInput | None = None,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Sound:
        """A loop of round(seconds · sample_rate) samples, of new sound or the beginning of a recording (see
        `vary`); the first one of `loop --seed`.
        """
        sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
        source = None if audio is None else self._audio("audio", audio)
        return self._edited(
            loop(self.loaded, source, GenerationSettings(seconds=seconds, seed=seed), sampling)
        )

    @names_arguments
    def morph(
        self, first: AudioInput, second: AudioInput, *, at: float | None = None, seed: int = 0
    ) -> Sound:
        """A sound that goes from one recording (see `vary`) to another, or the mixture `at` 0 to 1 of them;
        the first one of `morph --seed`. It needs no prior.
        """
        sources = (self._audio("first", first), self._audio("second", second))
        return self._edited(morph(self.loaded, *sources, MorphSettings(at=at), seed=seed))

    def _audio(self, name: str, audio: AudioInput) -> Audio:
        if isinstance(audio, str | os.PathLike):
            return as_path(audio)
        return to_pcm(*_with_rate(audio, name), self.loaded.vqvae_config)

    def _edited(self, edit: Edit) -> Sound:
        return Sound(edit.sound(0, lambda share: None).audio_CT, self.sample_rate)

    @names_arguments
    def encode(self, audio: ArrayLike | Tensor, sample_rate: int, *, levels: int | None = None) -> Tensor:
        """Codes int64 [Q, F] of `audio` [T] or [C, T], with the first `levels` RVQ levels.

        `audio` is an array or tensor of floats (full scale ±1) or integers (full scale by their type) at any
        rate; it is mixed and resampled to the model's. Raises AudioError for audio that cannot be used and
        CodeShapeError for levels that the model does not have.
        """
        most = self.loaded.vqvae_config.num_quantizers
        if levels is not None and not 1 <= levels <= most:
            raise CodeShapeError(f"levels must be from 1 to the model's {most}, not {levels}")
        pcm_CT = to_pcm(audio, sample_rate, self.loaded.vqvae_config)
        return encode_blocks(self.loaded.model, [pcm_CT], levels=levels).codes_QF

    @names_arguments
    def decode(self, codes: ArrayLike | Tensor, *, samples: int | None = None) -> Sound:
        """The sound of `codes` [Q, F], of the first Q levels; `samples` cuts it to the length of what was
        encoded, at most F · `frame_hop`, which is the default.

        Raises CodeShapeError for codes of another shape, type or range than the model's.
        """
        config = self.loaded.vqvae_config
        codes_QF = codes if isinstance(codes, Tensor) else _as_tensor(codes)
        if codes_QF.ndim != 2 or not 1 <= codes_QF.shape[0] <= config.num_quantizers or not codes_QF.shape[1]:
            raise CodeShapeError(
                f"codes must have the shape [levels, frames] with 1 to {config.num_quantizers} levels, "
                f"not {list(codes_QF.shape)}"
            )
        if codes_QF.is_floating_point() or codes_QF.is_complex() or codes_QF.dtype == torch.bool:
            raise CodeShapeError(f"codes must be integers, not {codes_QF.dtype}")
        if int(codes_QF.min()) < 0 or int(codes_QF.max()) >= config.codebook_size:
            raise CodeShapeError(f"codes must be from 0 to {config.codebook_size - 1}")
        frames = codes_QF.shape[1]
        whole = frames * config.frame_hop
        least = whole - config.frame_hop + 1
        if samples is not None and not least <= samples <= whole:
            raise CodeShapeError(f"{frames} frames of codes make {least} to {whole} samples, not {samples}")
        return self._decoded(codes_QF.long().cpu(), whole if samples is None else samples)

    def _decoded(self, codes_QF: Tensor, samples: int) -> Sound:
        return Sound(decoded(self.loaded.model, codes_QF, samples), self.sample_rate)

    def __repr__(self) -> str:
        config = self.loaded.vqvae_config
        prior = self.loaded.prior_config
        network = "none" if prior is None else f"{prior.num_layers} layers × {prior.hidden_size}"
        return (
            f"Model({str(self.loaded.path)!r} on {self.loaded.device}\n"
            f"  audio: {config.sample_rate} Hz, {config.channels} channel{'s'[: config.channels > 1]}\n"
            f"  codes: {config.num_quantizers} levels × {config.codebook_size}, "
            f"{config.frame_rate:.1f} frames/s\n"
            f"  prior: {network})"
        )


@names_arguments
@checks_arguments
def load(path: AnyPath, *, device: str = "auto") -> Model:
    """The model of a `.distill` file, ready to generate, encode and decode.

    `device` is auto (a GPU where there is one), cpu, cuda or cuda:N. Raises BundleError for a file that
    cannot be used and UsageError for a device that is not there.
    """
    fit_threads()
    return Model(load_model_v2(as_path(path), device=choose_device(device)))


def _with_rate(audio: object, name: str = "prompt") -> tuple[ArrayLike | Tensor, int]:
    if isinstance(audio, tuple) and len(audio) == 2:
        return audio
    raise AudioError(f"{name} must be a path, or audio and its rate: {name}=(audio, sample_rate)")


def _as_tensor(codes: ArrayLike) -> Tensor:
    try:
        codes_QF = np.asarray(codes)
        unsigned = np.issubdtype(codes_QF.dtype, np.unsignedinteger)
        return torch.from_numpy(codes_QF.astype(np.int64) if unsigned else codes_QF)
    except (TypeError, ValueError):
        raise CodeShapeError(
            f"codes must be integers of shape [levels, frames], not {shown(codes)}"
        ) from None


def _ignore(frame: int) -> None:
    pass
