"""One audio file → codes file, and back, in bounded memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.corpus.decode import AudioDecoder, probe
from distill_ray.errors import AudioError, ConfigError, Problem
from distill_ray.events.records import StageProgress
from distill_ray.generate.audio import check_suffix, write_audio
from distill_ray.generate.chunks import CHUNK_FRAMES, encode_blocks
from distill_ray.generate.codes import Codes, check_fit, load_codes, save_codes
from distill_ray.generate.generation_report import AudioReport, CodesReport
from distill_ray.storage.output_file import check_output
from distill_ray.storage.paths import AnyPath, as_path
from distill_ray.vqvae import decode_blocks

Progress = Callable[[StageProgress], None]


def encode_file(
    loaded: LoadedVQModel,
    audio: AnyPath,
    out: AnyPath,
    *,
    levels: int | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> CodesReport:
    """Encode an audio file of any rate and channel count to `out`, with the first `levels` levels.

    Raises AudioError where it cannot be decoded (or is empty), ConfigError for levels that the
    model does not have, UsageError where `out` is an input, a folder or in one that cannot be written, or
    exists and is not to be overwritten, and BundleError where it cannot be written in the end.
    """
    began = time.monotonic()
    config = loaded.vqvae_config
    audio, out = as_path(audio), as_path(out)
    check_output(out, audio, loaded.path, overwrite=overwrite)
    levels = config.num_quantizers if levels is None else checked_levels(levels, config.num_quantizers)
    decoder = AudioDecoder(audio, sample_rate=config.sample_rate, channels=config.channels)
    total = _expected_frames(audio, config.frame_rate)

    def tell(frame: int) -> None:
        if on_progress:
            on_progress(StageProgress(stage="encode", done=frame, total=max(frame, total), note="frames"))

    try:
        encoded = encode_blocks(loaded.model, decoder.blocks(), levels=levels, on_frames=tell)
    except AudioError as error:
        raise AudioError(f"{audio} cannot be used: {error}") from error
    save_codes(
        out,
        Codes(
            codes_QF=encoded.codes_QF,
            samples=encoded.samples,
            sample_rate=config.sample_rate,
            channels=config.channels,
            frame_hop=config.frame_hop,
            codebook_size=config.codebook_size,
            model_sha256=loaded.codec_sha256,
        ),
    )
    return CodesReport(
        model=str(loaded.path),
        audio=str(audio),
        codes=str(out),
        levels=levels,
        frames=encoded.codes_QF.shape[1],
        samples=encoded.samples,
        seconds=encoded.samples / config.sample_rate,
        sample_rate=config.sample_rate,
        channels=config.channels,
        kbps=levels * math.log2(config.codebook_size) * config.frame_rate / 1000,
        warnings=tuple(f"{audio}: {phrase}" for phrase in decoder.altered()),
        elapsed_s=time.monotonic() - began,
    )


def checked_levels(levels: int, most: int) -> int:
    """`levels` of a codec that has `most`. Raises ConfigError."""
    if not 1 <= levels <= most:
        raise ConfigError([Problem("levels", f"{levels} is not from 1 to the model's {most}", "--levels")])
    return levels


def decode_file(
    loaded: LoadedVQModel,
    codes: AnyPath,
    out: AnyPath,
    *,
    force: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> AudioReport:
    """Decode a codes file to the audio file `out`, in the format of its suffix, exact to the sample.

    Raises BundleError for a file that is damaged or belongs to another codec (`force` tries that codec's
    codes all the same, where their shapes fit), UsageError where `out` is an input, a folder or in one that
    cannot be written, or exists and is not to be overwritten, and AudioError where it cannot be written in
    the end.
    """
    began = time.monotonic()
    config = loaded.vqvae_config
    codes, out = as_path(codes), as_path(out)
    check_suffix(out)
    check_output(out, codes, loaded.path, overwrite=overwrite)
    stored = load_codes(codes)
    check_fit(stored, config, loaded.codec_sha256, where=codes, force=force)
    levels, frames = stored.codes_QF.shape

    def tell(frame: int) -> None:
        if on_progress:
            on_progress(StageProgress(stage="decode", done=frame, total=frames, note="frames"))

    blocks = decode_blocks(
        loaded.model, [stored.codes_QF], stored.samples, chunk_frames=CHUNK_FRAMES, on_frames=tell
    )
    write_audio(out, blocks, sample_rate=config.sample_rate, channels=config.channels)
    return AudioReport(
        model=str(loaded.path),
        codes=str(codes),
        audio=str(out),
        levels=levels,
        samples=stored.samples,
        seconds=stored.samples / config.sample_rate,
        sample_rate=config.sample_rate,
        channels=config.channels,
        elapsed_s=time.monotonic() - began,
    )


def _expected_frames(audio: Path, frame_rate: float) -> int:
    """About how many code frames a file will have, by its header; 0 where the decoder is about to say why."""
    return int(probe(audio).seconds * frame_rate)
