"""What `vary`, `fill`, `loop` and `morph` share: the recording that is edited, how codes are drawn anew, and
the files that come of it.

Every sound is drawn by itself, so that it does not depend on how many others were asked for.

Legend: C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import GenerationSettings, SamplingConfig
from distill_ray.corpus import PCM_SCALE
from distill_ray.corpus.decode import AUDIBLE, AudioDecoder, PcmBlock
from distill_ray.errors import AudioError, BundleError, CancelledError
from distill_ray.events.records import StageProgress
from distill_ray.generate.audio import write_audio
from distill_ray.generate.chunks import encode_blocks
from distill_ray.generate.generation_report import EditReport
from distill_ray.generate.request import check_prior
from distill_ray.generate.seams import SeamFigures
from distill_ray.generate.sound_files import make_sound_folder, other_place, sound_files
from distill_ray.prior import CodePrior
from distill_ray.prior.infill import infill, redraw
from distill_ray.storage.output_file import check_output

LONGEST_S = 1800
"""A recording that is edited is held in memory as a whole."""
Progress = Callable[[StageProgress], None]
Audio = Path | PcmBlock


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording at the rate and with the channels of the codec."""

    name: str
    audio_CT: Tensor
    """float32 in [-1, 1], on the CPU."""
    codes_QF: Tensor

    @property
    def samples(self) -> int:
        return self.audio_CT.shape[1]

    @property
    def frames(self) -> int:
        return self.codes_QF.shape[1]


@dataclass(frozen=True, kw_only=True)
class EditedSound:
    """One result: float32 [C, T] on the CPU."""

    audio_CT: Tensor
    seams: SeamFigures | None
    method: str
    redrawn: float
    """Share of its codes that were drawn anew."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What a command is asked to do; `sound(number, on_step)` makes one of its sounds."""

    command: str
    inputs: tuple[Path, ...]
    asked: Mapping[str, Any]
    sound: Callable[[int, Callable[[float], None]], EditedSound]


def read_recording(loaded: LoadedVQModel, audio: Audio) -> Recording:
    """The recording at a path, of any rate and channel count, or PCM [C, T] as the codec takes it.

    Raises AudioError where it cannot be decoded, is silent, shorter than a code frame or longer than half an
    hour.
    """
    config = loaded.vqvae_config
    name = str(audio) if isinstance(audio, Path) else "the recording"
    blocks_CT = [audio] if isinstance(audio, np.ndarray) else _decoded(audio, loaded)
    pcm_CT = np.concatenate(blocks_CT, axis=1)
    if not pcm_CT.shape[1] or np.abs(pcm_CT.astype(np.int32)).max() < AUDIBLE * PCM_SCALE:
        raise AudioError(f"{name} cannot be used: it is silent")
    if pcm_CT.shape[1] < config.frame_hop:
        raise AudioError(
            f"{name} is shorter than one code frame ({config.frame_hop} samples at {config.sample_rate} Hz); "
            "give a longer one"
        )
    return Recording(
        name=name,
        audio_CT=torch.from_numpy(pcm_CT).float() / PCM_SCALE,
        codes_QF=encode_blocks(loaded.model, [pcm_CT]).codes_QF,
    )


def _decoded(path: Path, loaded: LoadedVQModel) -> list[PcmBlock]:
    config = loaded.vqvae_config
    decoder = AudioDecoder(path, sample_rate=config.sample_rate, channels=config.channels)
    blocks, samples = [], 0
    try:
        for block_CT in decoder.blocks():
            blocks.append(block_CT)
            samples += block_CT.shape[1]
            if samples > LONGEST_S * config.sample_rate:
                raise AudioError(f"it lasts over {LONGEST_S // 60} minutes; cut out the part to be edited")
        decoder.check_loud()
    except AudioError as error:
        raise AudioError(f"{path} cannot be used: {error}") from error
    return blocks


def seeded(seed: int, number: int) -> int:
    """The seed of sound `number`, of 62 bits; neighbouring seeds share nothing."""
    return int.from_bytes(hashlib.sha256(f"edit {seed} {number}".encode()).digest()[:8], "little") >> 2


def filling_prior(loaded: LoadedVQModel) -> CodePrior:
    """The model's prior. Raises BundleError where it has none or has not learnt to fill in."""
    prior = check_prior(loaded)
    if prior.masks is None:
        raise BundleError(
            f"the prior of {loaded.path} has not learnt to fill gaps; train it again with `distill-ray "
            f"train-prior {loaded.path} DATA --masked-share 0.2 --overwrite`"
        )
    return prior


def drawn_anew(
    prior: CodePrior,
    codes_QF: Tensor,
    masked_QF: Tensor,
    sampling: SamplingConfig,
    seed: int,
    on_step: Callable[[float], None],
) -> Tensor:
    """codes_QF on the CPU with the masked ones drawn anew, looking both ways where the prior can."""
    draw = redraw if prior.masks is None else infill
    codes_BQF = draw(
        prior,
        codes_QF[None],
        masked_QF,
        sampling=sampling,
        generator=torch.Generator().manual_seed(seed),
        on_step=lambda done, total: on_step(done / total),
    )
    return codes_BQF[0].cpu()


def write_edits(
    loaded: LoadedVQModel,
    edit: Edit,
    settings: GenerationSettings,
    out: Path,
    *,
    overwrite: bool,
    on_progress: Progress | None,
) -> EditReport:
    """Make and write `settings.count` sounds: `<command>_s<seed>_<index>.<format>` in the folder `out`, or
    the one file that `out` names.

    Raises UsageError where a file is an input, exists and is not to be overwritten or cannot be written,
    AudioError where one cannot be written in the end, and CancelledError after Ctrl-C.
    """
    began, config = time.monotonic(), loaded.vqvae_config
    files = sound_files(out, edit.command, settings)
    for path in files:
        check_output(path, loaded.path, *edit.inputs, overwrite=overwrite, otherwise=other_place(out))
    sounds: list[EditedSound] = []
    for number, path in enumerate(files):

        def tell(share: float, before: int = number, most: float = 0.99) -> None:
            if on_progress:  # all of a sound is done once it is written
                done = int(100 * (before + min(share, most)) / len(files))
                on_progress(StageProgress(stage=edit.command, done=done, total=100, note="percent"))

        try:
            sound = edit.sound(number, tell)
            make_sound_folder(path.parent)
            write_audio(path, [sound.audio_CT], sample_rate=config.sample_rate, channels=config.channels)
        except KeyboardInterrupt:
            raise CancelledError(
                f"cancelled by Ctrl-C with {number} of {len(files)} sounds made in {path.parent}"
            ) from None
        tell(1.0, most=1.0)
        sounds.append(sound)
    return _report(loaded, edit, settings, files, sounds, time.monotonic() - began)


def _report(
    loaded: LoadedVQModel,
    edit: Edit,
    settings: GenerationSettings,
    files: list[Path],
    sounds: list[EditedSound],
    elapsed_s: float,
) -> EditReport:
    config, samples = loaded.vqvae_config, sounds[0].audio_CT.shape[1]
    seams = [sound.seams for sound in sounds]
    known = [each for each in seams if each is not None]
    return EditReport(
        model=str(loaded.path),
        command=edit.command,
        inputs=tuple(map(str, edit.inputs)),
        asked=dict(edit.asked),
        files=tuple(map(str, files)),
        output_dir=str(files[0].parent),
        seed=settings.seed,
        samples=samples,
        seconds=samples / config.sample_rate,
        sample_rate=config.sample_rate,
        channels=config.channels,
        audio_format=files[0].suffix.lower().removeprefix("."),
        method=sounds[0].method,
        redrawn=sounds[0].redrawn,
        seam_ratios=tuple(None if each is None else each.ratio for each in seams),
        seam_distance_db=sum(each.distance_db for each in known) / len(known) if known else None,
        real_distance_db=sum(each.real_distance_db for each in known) / len(known) if known else None,
        compared_with=known[0].compared_with if known else None,
        device=str(loaded.device),
        elapsed_s=elapsed_s,
    )
