"""Prior → codes → audio files: new sound, or the continuation of a recording.

A continuation holds the prompt, as the codec reconstructs it, and then what follows; its length counts both
(as audiocraft's `generate_continuation` does). Codes come from `prior/sampling.py`, whose attention slides
over all that was generated, and are decoded with full context (`chunks.py`): long outputs have no seams.

Legend: B batch, C channels, T samples, Q RVQ levels, F code frames.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from distill_ray.bundle.read import LoadedVQModel
from distill_ray.corpus.decode import AudioDecoder
from distill_ray.errors import AudioError, BundleError
from distill_ray.generate.audio import write_audio
from distill_ray.generate.chunks import decode_blocks, encode_blocks
from distill_ray.generate.report import GenerationReport
from distill_ray.generate.settings import GenerationSettings
from distill_ray.prior import SamplingConfig, sample_codes
from distill_ray.training.events import StageProgress

Progress = Callable[[StageProgress], None]

# Sounds are sampled in batches of a fixed size, the last one filled up: the rounding of a matrix product
# depends on its size, and a sound must not depend on how many others were asked for. A GPU is as quick with
# eight rows as with one; on a CPU each row costs.
_BATCH = {"cpu": 1}
_BATCH_ELSEWHERE = 8


def generate_samples(
    loaded: LoadedVQModel,
    *,
    count: int = 1,
    seconds: float = 10.0,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    prompt: Path | None = None,
    out_dir: Path,
    audio_format: str = "wav",
    on_progress: Progress | None = None,
) -> GenerationReport:
    """Write `count` files of exactly round(seconds · sample_rate) samples (at least one) to `out_dir`.

    Files are called `sample_s<seed>_<index>.<format>`; those of the same name are replaced. Sound i depends
    on the model, the settings, `seed` and the kind of device, and not on `count`.

    Raises BundleError where the model has no prior, ConfigError for settings out of range, and AudioError
    for a prompt that cannot be used, that is shorter than a code frame or that leaves nothing to generate.
    """
    settings = GenerationSettings(count=count, seconds=seconds, seed=seed, audio_format=audio_format)
    sampling = sampling or SamplingConfig()
    if loaded.prior is None:
        raise BundleError(
            f"{loaded.path} has no prior yet; train one with `distill-ray train-prior {loaded.path} DATA`"
        )
    began = time.monotonic()
    config = loaded.vqvae_config
    samples = max(1, round(settings.seconds * config.sample_rate))
    prompt_QF = None if prompt is None else _prompt_codes(loaded, prompt, samples)
    prompt_frames = 0 if prompt_QF is None else prompt_QF.shape[1]
    _make_folder(Path(out_dir))
    files: list[Path] = []
    for codes_QF in _sampled(loaded, settings, sampling, samples, prompt_QF, on_progress):
        path = Path(out_dir) / f"sample_s{settings.seed}_{len(files):03d}.{settings.audio_format}"
        blocks = decode_blocks(loaded.model, codes_QF, samples)
        write_audio(path, blocks, sample_rate=config.sample_rate, channels=config.channels)
        files.append(path)
    elapsed = time.monotonic() - began
    return GenerationReport(
        model=str(loaded.path),
        files=tuple(str(path) for path in files),
        output_dir=str(out_dir),
        seed=settings.seed,
        samples=samples,
        seconds=samples / config.sample_rate,
        sample_rate=config.sample_rate,
        channels=config.channels,
        audio_format=settings.audio_format,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        prompt=None if prompt is None else str(prompt),
        prompt_seconds=prompt_frames / config.frame_rate,
        device=str(loaded.device),
        elapsed_s=elapsed,
        audio_seconds_per_second=len(files) * samples / config.sample_rate / elapsed,
    )


def _make_folder(folder: Path) -> None:
    # Before the sampling, which may take minutes.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(
            f"the output folder {folder} cannot be made ({error.strerror}); choose another one"
        ) from error


def _sampled(
    loaded: LoadedVQModel,
    settings: GenerationSettings,
    sampling: SamplingConfig,
    samples: int,
    prompt_QF: Tensor | None,
    on_progress: Progress | None,
) -> Iterator[Tensor]:
    """The codes [Q, F] of each sound, prompt included."""
    assert loaded.prior is not None, "generate_samples refuses a model without a prior"
    frames = -(-samples // loaded.vqvae_config.frame_hop) - (0 if prompt_QF is None else prompt_QF.shape[1])
    batch = _BATCH.get(loaded.device.type, _BATCH_ELSEWHERE)
    groups = -(-settings.count // batch)
    for group in range(groups):

        def tell(frame: int, before: int = group * frames) -> None:
            if on_progress:
                on_progress(StageProgress(stage="generate", done=before + frame, total=groups * frames))

        codes_BQF = sample_codes(
            loaded.prior,
            frames=frames,
            batch=batch,
            prompt_BQT=None if prompt_QF is None else prompt_QF[None],
            sampling=sampling,
            generator=torch.Generator().manual_seed(_group_seed(settings.seed, group)),
            on_frame=tell,
        )
        yield from codes_BQF[: settings.count - group * batch].cpu()


def _group_seed(seed: int, group: int) -> int:
    # Hashed, because neighbouring seeds must not share sounds: seed 1, group 0 is not seed 0, group 1.
    return int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:8], "little") >> 1


def _prompt_codes(loaded: LoadedVQModel, prompt: Path, samples: int) -> Tensor:
    """Codes [Q, F] of the prompt's whole frames; the rest of a frame would be continued from silence."""
    config = loaded.vqvae_config
    decoder = AudioDecoder(prompt, sample_rate=config.sample_rate, channels=config.channels)
    try:
        encoded = encode_blocks(loaded.model, decoder.blocks())
    except AudioError as error:
        raise AudioError(f"the prompt {prompt} cannot be used: {error}") from error
    frames = encoded.samples // config.frame_hop
    if not frames:
        raise AudioError(
            f"the prompt {prompt} is shorter than one code frame ({config.frame_hop} samples at "
            f"{config.sample_rate} Hz); give a longer one"
        )
    if frames * config.frame_hop >= samples:
        raise AudioError(
            f"the prompt {prompt} takes {encoded.samples / config.sample_rate:.3f} s and the output is to "
            f"last {samples / config.sample_rate:.3f} s with it; ask for more seconds or cut the prompt"
        )
    return encoded.codes_QF[:, :frames]
