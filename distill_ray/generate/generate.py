"""Prior → codes → audio files: new sound, or the continuation of a recording.

A continuation holds the prompt, as the codec reconstructs it, and then what follows; its length counts both
(as audiocraft's `generate_continuation` does). Codes come from `prior/sampling.py`, whose attention slides
over all that was generated, and are decoded with full context (`vqvae/streaming.py`): long outputs have no
seams.

Legend: B sounds of a group, C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.config.generation import GenerationSettings
from distill_ray.errors import CancelledError, UsageError
from distill_ray.events.records import StageProgress
from distill_ray.generate.audio import write_audio
from distill_ray.generate.chunks import CHUNK_FRAMES
from distill_ray.generate.generation_report import GenerationReport
from distill_ray.generate.request import Request, make_request
from distill_ray.generate.sound_files import (
    is_audio_file,
    make_sound_folder,
    other_place,
    sound_files,
)
from distill_ray.generate.wish import Wish, followed
from distill_ray.prior import SamplingConfig
from distill_ray.prior.fixed_steps import graph_kept
from distill_ray.storage.output_file import check_output
from distill_ray.storage.paths import AnyPath, as_path
from distill_ray.vqvae import decode_batches, decode_blocks

Progress = Callable[[StageProgress], None]
Accepts = Callable[[Path, float], bool]
"""Whether a sound that was written, with so many seconds of prompt, may stay."""
HasTime = Callable[[float], bool]
"""Whether there is time for another sound that takes so many seconds."""
MOST_DRAWS = 8
"""How often a sound is drawn until it is accepted."""
_MOST_TOGETHER = 1 << 26
"""Numbers of audio that are decoded together, and held, at most."""


def generate_samples(
    loaded: LoadedVQModel,
    *,
    count: int = 1,
    seconds: float = 10.0,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    prompt: AnyPath | None = None,
    wish: Wish | None = None,
    accepts: Accepts | None = None,
    has_time: HasTime | None = None,
    out_dir: AnyPath,
    audio_format: str = "wav",
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> GenerationReport:
    """Write `count` files of exactly round(seconds · sample_rate) samples (at least one) to `out_dir`.

    Files are called `sample_s<seed>_<index>.<format>`. An `out_dir` that is no folder and ends like an audio
    file (`bird.flac`) is the one sound's own file, and its ending the format. Sound i depends on the model,
    the settings, `seed` and the kind of device, and not on `count`.

    wish: what they are asked to be like. accepts: asked about every sound that was written; one that it does
    not accept is drawn again. has_time: asked before every sound but the first, with what one has taken so
    far; where there is none, the report has fewer files.

    Raises BundleError where the model has no prior, ConfigError for settings out of range, UsageError where
    a file is an input, exists and is not to be overwritten or cannot be written, for a wish that the model
    cannot follow, and where no draw of a sound was accepted, AudioError for a prompt that
    cannot be used, that is shorter than a code frame or that leaves nothing to generate, and CancelledError
    after Ctrl-C, which leaves the sounds that were made.
    """
    began = time.monotonic()
    out = as_path(out_dir)
    if is_audio_file(out):
        audio_format = out.suffix.lower().removeprefix(".")
    settings = GenerationSettings(count=count, seconds=seconds, seed=seed, audio_format=audio_format)
    prompt = None if prompt is None else as_path(prompt)
    files = sound_files(out, "sample", settings)
    inputs = [loaded.path, *([] if prompt is None else [prompt])]
    for path in files:
        check_output(path, *inputs, overwrite=overwrite, otherwise=other_place(out))
    request = make_request(loaded, settings, sampling, prompt, wish)
    config, samples = loaded.vqvae_config, request.samples
    prompt_seconds = request.prompt_frames / config.frame_rate
    make_sound_folder(files[0].parent)  # before the sampling, which may take minutes
    with graph_kept():
        drawn = _write_sounds(loaded, request, files, accepts, has_time, on_progress, overwrite=overwrite)
    files = files[: len(drawn)]
    measured = [followed(loaded, wish, path, prompt_seconds) for path in files] if wish else []
    elapsed = time.monotonic() - began
    return GenerationReport(
        model=str(loaded.path),
        files=tuple(str(path) for path in files),
        output_dir=str(files[0].parent),
        seed=settings.seed,
        samples=samples,
        seconds=samples / config.sample_rate,
        sample_rate=config.sample_rate,
        channels=config.channels,
        audio_format=settings.audio_format,
        temperature=request.sampling.temperature,
        top_k=request.sampling.top_k,
        top_p=request.sampling.top_p,
        prompt=None if prompt is None else str(prompt),
        prompt_seconds=prompt_seconds,
        label=wish.label if wish else None,
        guidance=wish.guidance if wish else None,
        controls=tuple(measured),
        draws=tuple(drawn),
        device=str(loaded.device),
        elapsed_s=elapsed,
        audio_seconds_per_second=len(files) * samples / config.sample_rate / elapsed,
    )


def _write_sounds(
    loaded: LoadedVQModel,
    request: Request,
    files: Sequence[Path],
    accepts: Accepts | None,
    has_time: HasTime | None,
    on_progress: Progress | None,
    *,
    overwrite: bool,
) -> list[int]:
    """How often each was drawn, of those that there is time for. `overwrite`: the same command does so."""
    config = loaded.vqvae_config
    prompt_seconds = request.prompt_frames / config.frame_rate
    draws: list[int] = []

    def write(path: Path, blocks_CT: Iterable[Tensor]) -> bool:
        write_audio(path, blocks_CT, sample_rate=config.sample_rate, channels=config.channels)
        return accepts is None or accepts(path, prompt_seconds)

    try:
        began = time.monotonic()
        sounds = _sampled(loaded, request, len(files), on_progress)
        for number, path in enumerate(files):
            if number and has_time is not None and not has_time((time.monotonic() - began) / number):
                break
            attempt = 1
            accepted = write(path, next(sounds))
            while not accepted and attempt < MOST_DRAWS:
                group, row = divmod(number, request.batch)
                again_BQF = request.codes(group, lambda frame: None, attempt=attempt)
                accepted = write(path, list(_decoded(loaded, request, again_BQF, row + 1))[row])
                attempt += 1
            if not accepted:
                path.unlink()
                raise UsageError(
                    f"{path.name} was drawn {MOST_DRAWS} times and copied a training recording each time "
                    f"({number} of {len(files)} sounds were made before it); train the prior on more audio "
                    "or for less time, or leave out --novel"
                )
            draws.append(attempt)
    except KeyboardInterrupt:
        again = "the same command" if overwrite else "with --overwrite the same command"
        raise CancelledError(
            f"cancelled by Ctrl-C with {len(draws)} of {len(files)} sounds made in {files[0].parent}; "
            f"{again} makes all anew"
        ) from None
    return draws


def _sampled(
    loaded: LoadedVQModel, request: Request, count: int, on_progress: Progress | None
) -> Iterator[Iterable[Tensor]]:
    """Blocks of audio [C, T] of each of `count` sounds, prompt included."""
    groups = -(-count // request.batch)
    for group in range(groups):

        def tell(frame: int, before: int = group * request.frames) -> None:
            if on_progress:
                total = groups * request.frames
                on_progress(StageProgress(stage="generate", done=before + frame, total=total, note="frames"))

        codes_BQF = request.codes(group, tell)
        yield from _decoded(loaded, request, codes_BQF, min(request.batch, count - group * request.batch))


def _decoded(
    loaded: LoadedVQModel, request: Request, codes_BQF: Tensor, count: int
) -> Iterator[Iterable[Tensor]]:
    """Blocks of audio [C, T] of each of the first `count` sounds of a group.

    All of the group are decoded together, however many are wanted: a product rounds by its size. Where they
    are too long for that one after another, block by block.
    """
    model, samples = loaded.model, request.samples
    if len(codes_BQF) == 1 or len(codes_BQF) * samples * loaded.vqvae_config.channels > _MOST_TOGETHER:
        for codes_QF in codes_BQF[:count].cpu():
            yield decode_blocks(model, [codes_QF], samples, chunk_frames=CHUNK_FRAMES)
        return
    blocks_BCT = decode_batches(model, [codes_BQF], samples, chunk_frames=CHUNK_FRAMES)
    audio_BCT = torch.cat([block_BCT[:count].cpu() for block_BCT in blocks_BCT], dim=2)
    for audio_CT in audio_BCT:
        yield [audio_CT]
