"""A request for sound: what a model is asked for, checked, and the codes that answer it.

`generate.py` makes files of the codes and `stream.py` audio while they are drawn.

Legend: B batch, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import GenerationSettings
from distill_ray.config.vqvae import VQVAEConfig
from distill_ray.corpus.decode import AudioDecoder, PcmBlock
from distill_ray.errors import AudioError, BundleError
from distill_ray.generate.chunks import EncodedAudio, encode_blocks
from distill_ray.generate.wish import Wish
from distill_ray.prior import CodePrior, Guidance, SamplingConfig, sample_codes, stream_codes

# Sounds are sampled in batches of a fixed size, the last one filled up: the rounding of a matrix product
# depends on its size, and a sound must not depend on how many others were asked for. A GPU is as quick with
# eight rows as with one; on a CPU each row costs.
_BATCH = {"cpu": 1}
_BATCH_ELSEWHERE = 8
_LONGER_S = 60  # a prompt that is too long by no more than this is told its length
_UNHEARD_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """Sounds of `samples` samples each, drawn in groups of `batch`; group g has sounds g · batch and on."""

    prior: CodePrior
    sampling: SamplingConfig
    seed: int
    samples: int
    prompt_QF: Tensor | None
    frames: int
    """New ones of each sound, beside the prompt's."""
    batch: int
    guidance: Guidance | None
    """What is asked for."""
    unheard: int
    """Frames to draw first and leave out: a sound that begins in the middle of things has to find its way."""

    @property
    def prompt_frames(self) -> int:
        """Frames that each sound begins with."""
        return 0 if self.prompt_QF is None else self.prompt_QF.shape[1]

    def codes(self, group: int, on_frame: Callable[[int], None], *, attempt: int = 0) -> Tensor:
        """codes_BQF of a group of sounds, prompt included; for `on_frame` see `sample_codes`.

        Each `attempt` gives others.
        """

        def heard(frame: int) -> None:
            if frame > self.unheard:
                on_frame(frame - self.unheard)

        codes_BQF = sample_codes(
            self.prior,
            frames=self.unheard + self.frames,
            batch=self.batch,
            prompt_BQT=self._prompt_BQF,
            guidance=self.guidance,
            sampling=self.sampling,
            generator=self._generator(group, attempt),
            on_frame=heard,
        )
        return codes_BQF[:, :, self.unheard :]

    def first_codes(self) -> Iterator[Tensor]:
        """The codes of sound 0 as they are drawn: the prompt's, then frame by frame, [Q, F] each."""
        blocks_BQF = stream_codes(
            self.prior,
            frames=self.unheard + self.frames,
            batch=self.batch,
            prompt_BQT=self._prompt_BQF,
            guidance=self.guidance,
            sampling=self.sampling,
            generator=self._generator(0),
        )
        # Without a prompt every block is a frame.
        return (block_BQF[0] for block_BQF in islice(blocks_BQF, self.unheard, None))

    @property
    def _prompt_BQF(self) -> Tensor | None:
        return None if self.prompt_QF is None else self.prompt_QF[None]

    def _generator(self, group: int, attempt: int = 0) -> torch.Generator:
        # Hashed, because neighbouring seeds must not share sounds: seed 1, group 0 is not seed 0, group 1.
        again = f" {attempt}" if attempt else ""
        mixed = hashlib.sha256(f"{self.seed} {group}{again}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") >> 1)


def check_prior(loaded: LoadedVQModel) -> CodePrior:
    """The model's prior. Raises BundleError where it has none."""
    if loaded.prior is None:
        raise BundleError(
            f"{loaded.path} has no prior yet; train one with `distill-ray train-prior {loaded.path} DATA`"
        )
    return loaded.prior


def make_request(
    loaded: LoadedVQModel,
    settings: GenerationSettings,
    sampling: SamplingConfig | None,
    prompt: Path | PcmBlock | None,
    wish: Wish | None = None,
) -> Request:
    """What `settings` ask of `loaded`; the prompt, a file or PCM [C, T] as the codec takes it, is encoded.

    Raises BundleError where the model has no prior, UsageError for a wish that it cannot follow, and
    AudioError for a prompt that cannot be used, that is shorter than a code frame or that leaves nothing to
    generate.
    """
    prior = check_prior(loaded)
    guidance = None if wish is None else wish.guided(loaded)
    config = loaded.vqvae_config
    samples = max(1, round(settings.seconds * config.sample_rate))
    prompt_QF = None if prompt is None else _prompt_codes(loaded, config, prompt, samples)
    sampling = sampling or SamplingConfig()
    in_the_middle = prompt_QF is None and sampling.start == "middle"
    return Request(
        prior=prior,
        sampling=sampling,
        seed=settings.seed,
        samples=samples,
        prompt_QF=prompt_QF,
        frames=-(-samples // config.frame_hop) - (0 if prompt_QF is None else prompt_QF.shape[1]),
        batch=_BATCH.get(loaded.device.type, _BATCH_ELSEWHERE),
        guidance=guidance,
        unheard=math.ceil(_UNHEARD_SECONDS * config.frame_rate) if in_the_middle else 0,
    )


def _no_longer(blocks_CT: Iterator[PcmBlock], sample_rate: int, samples: int) -> Iterator[PcmBlock]:
    """The blocks of a prompt; raises AudioError once it is a minute longer than a sound of `samples`.

    A small file can hold days.
    """
    taken, most = 0, samples + _LONGER_S * sample_rate
    for block_CT in blocks_CT:
        taken += block_CT.shape[1]
        if taken > most:
            raise AudioError(
                f"it takes over {most / sample_rate:.0f} s and the output is to last "
                f"{samples / sample_rate:.3f} s with it; ask for more seconds or cut the prompt"
            )
        yield block_CT


def _prompt_codes(
    loaded: LoadedVQModel, config: VQVAEConfig, prompt: Path | PcmBlock, samples: int
) -> Tensor:
    """Codes [Q, F] of the prompt's whole frames; the rest of a frame would be continued from silence."""
    if isinstance(prompt, Path):
        called, encoded = f"the prompt {prompt}", _encoded_file(loaded, config, prompt, samples)
    else:
        called, encoded = "the prompt", encode_blocks(loaded.model, [prompt])
    frames = encoded.samples // config.frame_hop
    if not frames:
        raise AudioError(
            f"{called} is shorter than one code frame ({config.frame_hop} samples at "
            f"{config.sample_rate} Hz); give a longer one"
        )
    if frames * config.frame_hop >= samples:
        raise AudioError(
            f"{called} takes {encoded.samples / config.sample_rate:.3f} s and the output is to "
            f"last {samples / config.sample_rate:.3f} s with it; ask for more seconds or cut the prompt"
        )
    return encoded.codes_QF[:, :frames]


def _encoded_file(loaded: LoadedVQModel, config: VQVAEConfig, prompt: Path, samples: int) -> EncodedAudio:
    decoder = AudioDecoder(prompt, sample_rate=config.sample_rate, channels=config.channels)
    try:
        encoded = encode_blocks(loaded.model, _no_longer(decoder.blocks(), config.sample_rate, samples))
    except AudioError as error:
        raise AudioError(f"the prompt {prompt} cannot be used: {error}") from error
    lost = decoder.lost()
    if lost:
        raise AudioError(f"the prompt {prompt} cannot be used: {lost}; convert it to the channels to be used")
    return encoded
